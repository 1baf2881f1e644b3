/* The client's connection.
 *
 *     handshake -> ALPN h2: the first bytes are judged -> h2
 *              |                                     \-> h1
 *              \-> any other ALPN, or none -------------> h1
 *
 * It is freed by one event only: its stream is closed for good. Whoever closes the stream (handshake, HTTP, relay) need
 * not know about the connection. */
#include "server/conn.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"
#include "adit/http/h1.h"
#include "adit/http/h2.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"

#include <unistd.h>

#define CONN_MAGIC OBJ_MAGIC('c', 'o', 'n', 'n')

enum { UNUSED_MS = 2000 }; /* who keeps a connection longer did not give it up because of HTTP/2 */

struct conn {
	uint32_t magic;
	TAILQ_ENTRY(conn) entry;
	struct worker_parts *worker;
	struct client client;
	struct stream *stream;
	struct h1 *h1; /* one of them, once it is known which */
	struct h2 *h2;
	struct deadline deadline; /* until then */
	unsigned wrong; /* the client's */
	uint64_t began_ms;
	bool http2; /* by ALPN */
	bool authenticated, closing;
	bool judging; /* after ALPN h2: nothing is sent before the client's first bytes have told what it speaks */
	char first[H2_PREFACE_BYTES]; /* these bytes; a credential may begin in them */
	size_t first_n;
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
	deadline_clear(&c->deadline);
	mem_burn(c->first, sizeof(c->first));
	stream_close(c->stream, how);
}

static bool gave_http2_up(const struct conn *c)
{
	return c->http2 && !c->h1 && (!c->h2 || !h2_was_used(c->h2)) && clock_mono_ms() - c->began_ms < UNUSED_MS;
}

static void on_closed(void *ctx)
{
	struct conn *c;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	if (gave_http2_up(c))
		limits_unused_http2(c->worker->limits, &c->client.address, c->began_ms);
	TAILQ_REMOVE(&c->worker->conns, c, entry);
	limits_leave(c->worker->limits, &c->client.address, c->authenticated);
	deadline_fini(&c->deadline);
	h1_free(c->h1);
	h2_free(c->h2);
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

static void out_of_memory(struct conn *c)
{
	say(c, REASON_NO_MEMORY, "");
	end(c, STREAM_CLOSE_ABORT);
}

static void start_http(struct conn *c, bool http2)
{
	struct tunnel_env *env = &c->worker->env;

	if (http2)
		c->h2 = h2_start(env->loop, c->stream, &c->client, env->conf, &tunnel_handler, env, env->buffer,
			env->buffer_bytes);
	else
		c->h1 = h1_start(env->loop, c->stream, &c->client, env->conf, &tunnel_handler, env);
	if (!c->h1 && !c->h2)
		out_of_memory(c);
	else if (env->draining)
		conn_drain(c);
}

/* --- after ALPN h2: HTTP/2, or HTTP/1 all the same --- */

/* The bytes go back to where they came from, for whoever speaks that version. */
static void judged(struct conn *c, bool http2)
{
	bool kept = stream_unread(c->stream, c->first, c->first_n);

	c->judging = false;
	deadline_clear(&c->deadline);
	mem_burn(c->first, sizeof(c->first));
	stream_pause(c->stream, STREAM_PAUSE_IDLE);
	if (kept)
		start_http(c, http2);
	else
		out_of_memory(c);
}

/* The same as for an HTTP/1 head that is not complete. */
static void client_left(struct conn *c)
{
	bool idle = c->first_n == 0 && stream_fault(c->stream) == STREAM_FAULT_NONE;

	say(c, REASON_CLIENT_GONE, "");
	end(c, idle ? STREAM_CLOSE_FLUSH : STREAM_CLOSE_ABORT);
}

static void on_first_bytes(void *ctx)
{
	struct conn *c;
	size_t n = 0;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	/* each turn takes a byte at least, and all of them together decide */
	while (c->judging && !c->closing) {
		switch (stream_read(c->stream, c->first + c->first_n, sizeof(c->first) - c->first_n, &n)) {
		case STREAM_IO_OK:
			c->first_n += n;
			break;
		case STREAM_IO_AGAIN:
			return;
		default:
			client_left(c);
			return;
		}
		switch (h2_preface_judge(c->first, c->first_n)) {
		case H2_PREFACE_WAIT:
			break;
		case H2_PREFACE_H2:
			judged(c, true);
			return;
		case H2_PREFACE_H1:
			judged(c, false);
			return;
		case H2_PREFACE_BAD:
			say(c, REASON_BAD_REQUEST_LINE, "neither HTTP/2 nor HTTP/1.1");
			end(c, STREAM_CLOSE_FLUSH);
			return;
		}
	}
}

static void on_drained(void *ctx ADIT_UNUSED)
{
}

static void on_fault(void *ctx)
{
	struct conn *c;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	say(c, REASON_CLIENT_RESET, "");
	end(c, STREAM_CLOSE_ABORT);
}

static const struct stream_handler judging_handler = { on_first_bytes, on_drained, on_fault };

static void judge(struct conn *c)
{
	if (!deadline_set(&c->deadline, c->worker->env.conf->deadlines.head)) {
		out_of_memory(c);
		return;
	}
	c->judging = true;
	stream_attach(c->stream, &judging_handler, c);
	stream_secret(c->stream, true);
	stream_resume(c->stream, STREAM_PAUSE_IDLE);
	if (c->worker->env.draining)
		conn_drain(c);
}

/* --- the handshake --- */

static void shaken_hands(struct conn *c)
{
	struct tls_stream_info info;

	tls_stream_info(c->stream, &info);
	stats_inc(STAT_HANDSHAKES);
	if (info.resumed)
		stats_inc(STAT_RESUMED);
	c->client.tls_version = info.version;
	c->client.tls_cipher = info.cipher;
	c->client.tls_sni = info.sni;
	c->http2 = slice_eq(info.alpn, slice_of("h2"));
	if (c->http2)
		judge(c);
	else
		start_http(c, false);
}

static void on_handshake(void *ctx, enum reason verdict)
{
	struct conn *c;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	if (c->closing)
		return;
	deadline_clear(&c->deadline);
	if (verdict == REASON_OK) {
		shaken_hands(c);
		return;
	}
	say(c, verdict, tls_stream_error(c->stream));
	if (verdict == REASON_PLAIN_HTTP)
		tls_stream_plain(c->stream, slice_of(plain_answer));
	end(c, verdict == REASON_CLIENT_GONE ? STREAM_CLOSE_ABORT : STREAM_CLOSE_TRUNCATE);
}

static void on_deadline(void *ctx)
{
	struct conn *c;

	OBJ_CAST(c, ctx, CONN_MAGIC);
	say(c, c->judging ? REASON_HEAD_TIMEOUT : REASON_HANDSHAKE_TIMEOUT, "");
	end(c, c->judging ? STREAM_CLOSE_FLUSH : STREAM_CLOSE_ABORT);
}

void conn_accept(struct worker_parts *w, int fd, const struct addr *peer, const struct listen_options *options)
{
	const struct conf *conf = w->env.conf;
	struct conn *c = mem_alloc(sizeof(*c));
	struct sockaddr_storage local;
	socklen_t local_n = sizeof(local);
	enum tls_http2 http2 = TLS_HTTP2_OFF;

	if (!c)
		goto fail;
	OBJ_INIT(c, CONN_MAGIC);
	c->worker = w;
	c->client.address = *peer;
	c->client.close_after_refusal = options->close_after_refusal;
	c->client.authenticated = on_authenticated;
	c->client.wrong = &c->wrong;
	c->client.authenticated_ctx = c;
	if (getsockname(fd, (struct sockaddr *)&local, &local_n) == 0)
		(void)addr_from_sockaddr(&c->client.listener, (struct sockaddr *)&local, local_n);
	audit_id(c->client.id);
	deadline_init(&c->deadline, w->env.loop, on_deadline, c);
	if (!deadline_set(&c->deadline, conf->deadlines.handshake))
		goto fail;
	c->began_ms = clock_mono_ms();
	if (options->http2)
		http2 = limits_doubts_http2(w->limits, peer) ? TLS_HTTP2_LAST : TLS_HTTP2_FIRST;
	c->stream = tls_stream_accept(w->env.loop, fd, w->tls, w->wire, http2, conf->deadlines.linger, on_handshake, c);
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
		deadline_fini(&c->deadline);
		mem_free(c);
	}
}

void conn_abort(struct conn *c, enum reason reason)
{
	OBJ_CHECK(c, CONN_MAGIC);
	if (c->h1) {
		h1_abort(c->h1, reason);
	} else if (c->h2) {
		h2_abort(c->h2, reason);
	} else {
		if (!c->closing)
			stats_reason(reason);
		end(c, STREAM_CLOSE_ABORT);
	}
}

void conn_drain(struct conn *c)
{
	OBJ_CHECK(c, CONN_MAGIC);
	if (c->h1)
		h1_drain(c->h1);
	else if (c->h2)
		h2_drain(c->h2);
	else if (c->judging && c->first_n == 0)
		end(c, STREAM_CLOSE_FLUSH); /* an idle connection */
}

struct conn *conn_next(struct conn *c)
{
	return TAILQ_NEXT(c, entry);
}
