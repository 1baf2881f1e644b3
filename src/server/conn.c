/* The client's connection.
 *
 * It is freed by one event only: its stream is closed for good. Whoever closes the stream (handshake, HTTP, relay) need
 * not know about the connection. */
#include "server/conn.h"

#include "adit/base/mem.h"
#include "adit/http/h1.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"

#include <unistd.h>

#define CONN_MAGIC OBJ_MAGIC('c', 'o', 'n', 'n')

struct conn {
	uint32_t magic;
	TAILQ_ENTRY(conn) entry;
	struct worker_parts *worker;
	struct client client;
	struct stream *stream;
	struct h1 *h1; /* NULL until the handshake is done */
	struct deadline handshake;
	bool authenticated, closing;
};

static const char plain_answer[] =
	"HTTP/1.1 400 Bad Request\r\n"
	"Proxy-Status: adit; error=http_request_error; details=\"plain_http\"\r\n"
	"Content-Type: text/plain; charset=utf-8\r\n"
	"Connection: close\r\n"
	"\r\n"
	"plain_http: this port speaks TLS; use https:// in the proxy URL, as in https://USER:PASSWORD@HOST:PORT\n";

static void end(struct conn *c, enum stream_close how)
{
	if (c->closing)
		return;
	c->closing = true;
	deadline_clear(&c->handshake);
	stream_close(c->stream, how);
}

static void on_closed(void *ctx)
{
	struct conn *c;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	TAILQ_REMOVE(&c->worker->conns, c, entry);
	limits_leave(c->worker->limits, &c->client.address, c->authenticated);
	deadline_fini(&c->handshake);
	h1_free(c->h1);
	OBJ_FINI(c);
	mem_free(c);
}

static void on_authenticated(void *ctx)
{
	struct conn *c;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	if (c->authenticated)
		return;
	c->authenticated = c->client.logged_in = true;
	limits_authenticated(c->worker->limits, &c->client.address);
}

static void say(const struct conn *c, enum reason reason, const char *detail)
{
	static struct log_limit limit = LOG_LIMIT(100);
	char client[ADDR_TEXT_SIZE];

	stats_reason(reason);
	if (log_wants(LOG_LEVEL_INFO) && log_limit(&limit))
		log_info("%s: %s: client %s%s%s", reason_name(reason), reason_row(reason)->sentence,
		    addr_text(&c->client.address, client), detail[0] ? ": " : "", detail);
}

static void start_http(struct conn *c)
{
	struct tls_stream_info info;

	tls_stream_info(c->stream, &info);
	stats_inc(STAT_HANDSHAKES);
	if (info.resumed)
		stats_inc(STAT_RESUMED);
	c->client.tls_version = info.version;
	c->client.tls_cipher = info.cipher;
	c->client.tls_sni = info.sni;
	c->h1 = h1_start(c->worker->env.loop, c->stream, &c->client, c->worker->env.conf, &tunnel_handler, &c->worker->env);
	if (!c->h1) {
		say(c, REASON_NO_MEMORY, "");
		end(c, STREAM_CLOSE_ABORT);
		return;
	}
	if (c->worker->env.draining)
		h1_drain(c->h1);
}

static void on_handshake(void *ctx, enum reason verdict)
{
	struct conn *c;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	if (c->closing)
		return;
	deadline_clear(&c->handshake);
	if (verdict == REASON_OK) {
		start_http(c);
		return;
	}
	say(c, verdict, tls_stream_error(c->stream));
	if (verdict == REASON_PLAIN_HTTP)
		tls_stream_plain(c->stream, slice_of(plain_answer));
	end(c, verdict == REASON_CLIENT_GONE ? STREAM_CLOSE_ABORT : STREAM_CLOSE_TRUNCATE);
}

static void on_handshake_deadline(void *ctx)
{
	struct conn *c;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	say(c, REASON_HANDSHAKE_TIMEOUT, "");
	end(c, STREAM_CLOSE_ABORT);
}

void conn_accept(struct worker_parts *w, int fd, const struct addr *peer, bool close_after_refusal)
{
	const struct conf *conf = w->env.conf;
	struct conn *c = mem_alloc(sizeof(*c));
	struct sockaddr_storage local;
	socklen_t local_n = sizeof(local);

	if (!c)
		goto fail;
	OBJ_INIT(c, CONN_MAGIC);
	c->worker = w;
	c->client.address = *peer;
	c->client.close_after_refusal = close_after_refusal;
	c->client.authenticated = on_authenticated;
	c->client.authenticated_ctx = c;
	if (getsockname(fd, (struct sockaddr *)&local, &local_n) == 0)
		(void)addr_from_sockaddr(&c->client.listener, (struct sockaddr *)&local, local_n);
	audit_id(c->client.id);
	deadline_init(&c->handshake, w->env.loop, on_handshake_deadline, c);
	if (!deadline_set(&c->handshake, conf->deadlines.handshake))
		goto fail;
	c->stream = tls_stream_accept(w->env.loop, fd, w->tls, w->wire, conf->deadlines.linger, on_handshake, c);
	if (!c->stream)
		goto fail;
	stream_on_closed(c->stream, on_closed, c);
	TAILQ_INSERT_TAIL(&w->conns, c, entry);
	stats_inc(STAT_ACCEPTED);
	return;
fail:
	stats_reason(REASON_NO_MEMORY);
	limits_leave(w->limits, peer, false);
	close(fd);
	if (c) {
		deadline_fini(&c->handshake);
		mem_free(c);
	}
}

void conn_abort(struct conn *c, enum reason reason)
{
	OBJ_CHECK(c, CONN_MAGIC);
	if (c->h1) {
		h1_abort(c->h1, reason);
		return;
	}
	if (!c->closing)
		stats_reason(reason);
	end(c, STREAM_CLOSE_ABORT);
}

void conn_drain(struct conn *c)
{
	OBJ_CHECK(c, CONN_MAGIC);
	if (c->h1)
		h1_drain(c->h1);
}

struct conn *conn_next(struct conn *c)
{
	return TAILQ_NEXT(c, entry);
}
