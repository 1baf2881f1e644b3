/* HTTP/1.x towards the client (RFC 9112).
 *
 * Hard part: what stays after a head. The head with its credentials lies in a buffer of our own that is wiped as soon
 * as the handler has seen them (forget); what came behind it is early data of a tunnel that may never be allowed. So it
 * waits in the same buffer, unread by anyone, until the answer is known: 200 gives it to the tunnel, a refusal drops it
 * with the connection (RFC 9931), since bytes behind a refused CONNECT must never be taken for a request. A forwarded
 * request's body begins among those bytes and ends before the next head: message.c finds where, and the connection goes
 * on from there, or ends when that cannot be known. */
#include "adit/http/h1.h"

#include "adit/base/mem.h"
#include "adit/http/message.h"
#include "adit/log/stats.h"

#include <stdio.h>

enum { HEAD_FIRST_BYTES = 2048 };

/* How long a stranger may keep a connection by asking for health and the like. */
enum { STRANGER_MS = 30000 };

/* How long a client that goes on sending a body after its answer is listened to, beyond deadlines.linger. Closing under
 * it would be a reset, which can take the answer away again. */
enum { LINGER_MOST_MS = 30000 };

enum h1_state {
	H1_STATE_HEAD, /* reading a request head */
	H1_STATE_REQUEST, /* the handler is at work; nothing is read */
	H1_STATE_TUNNEL, /* the stream is the handler's */
	H1_STATE_EXCHANGE, /* the handler has the message on it */
	H1_STATE_LINGER, /* all is said; what still comes is thrown away */
	H1_STATE_CLOSED, /* the stream is closed or on its way there */
};

#define H1_MAGIC OBJ_MAGIC('h', '1', 'c', 'n')

struct h1 {
	uint32_t magic;
	struct request request;
	struct loop *loop;
	struct stream *stream;
	struct conf *conf;
	struct http_handler handler;
	void *handler_ctx;
	void *object; /* the handler's, while a request is in work */
	enum h1_state state;
	struct deadline deadline;
	struct head_parser parser;
	char *buf;
	size_t size, have;
	size_t rest_at; /* where the bytes behind the head begin */
	bool keep_alive, body_expected, first, drain;
	bool old; /* HTTP/1.0 */
	unsigned long long started_ms;

	/* an exchange's */
	struct stream *message; /* NULL: none, or closed */
	enum stream_close closed_how;
	bool replied, reply_keeps; /* and the connection was said to stay */
	bool body_left; /* the request's body is not over */
	unsigned long long linger_until_ms;
	char *trailers; /* what the request's slice points into */
};

static struct h1 *of(struct request *r)
{
	return OBJ_OF(r, struct h1, request);
}

static void wipe_buffer(struct h1 *h)
{
	mem_burn(h->buf, h->have);
	mem_free(h->buf);
	h->buf = NULL;
	h->size = h->have = h->rest_at = 0;
}

static void forget_exchange(struct h1 *h)
{
	mem_free(h->trailers);
	h->trailers = NULL;
	h->replied = h->reply_keeps = false;
}

static void close_stream(struct h1 *h, enum stream_close how)
{
	ADIT_ASSERT(h->state != H1_STATE_CLOSED && h->state != H1_STATE_TUNNEL && !h->message);
	h->state = H1_STATE_CLOSED;
	deadline_clear(&h->deadline);
	wipe_buffer(h);
	forget_exchange(h);
	stream_close(h->stream, how);
}

static const struct stream_handler stream_handler;

/* --- the end of an answer that its client does not wait for --- */

static void on_linger_readable(void *ctx)
{
	struct h1 *h;
	char waste[16384];
	size_t n;

	OBJ_CAST(h, ctx, H1_MAGIC);
	switch (stream_read(h->stream, waste, sizeof(waste), &n)) {
	case STREAM_IO_OK:
		if (loop_now_ms(h->loop) >= h->linger_until_ms || !deadline_set(&h->deadline, h->conf->deadlines.linger))
			close_stream(h, STREAM_CLOSE_FLUSH);
		else
			stream_more(h->stream);
		return;
	case STREAM_IO_AGAIN:
		return;
	default:
		close_stream(h, STREAM_CLOSE_FLUSH);
	}
}

static void on_linger_drained(void *ctx ADIT_UNUSED)
{
}

static void on_linger_fault(void *ctx)
{
	struct h1 *h;

	OBJ_CAST(h, ctx, H1_MAGIC);
	close_stream(h, STREAM_CLOSE_ABORT);
}

static const struct stream_handler linger_handler = { on_linger_readable, on_linger_drained, on_linger_fault };

static void linger(struct h1 *h)
{
	if (!deadline_set(&h->deadline, h->conf->deadlines.linger)) {
		close_stream(h, STREAM_CLOSE_FLUSH);
		return;
	}
	h->state = H1_STATE_LINGER;
	h->linger_until_ms = loop_now_ms(h->loop) + LINGER_MOST_MS;
	wipe_buffer(h);
	stream_attach(h->stream, &linger_handler, h);
	stream_finish(h->stream);
	stream_resume(h->stream, STREAM_PAUSE_IDLE);
}

/* --- the request's operations --- */

static void h1_forget(struct request *r)
{
	struct h1 *h = of(r);

	mem_burn(h->buf, h->rest_at);
	r->credentials = (struct slice){ 0 };
	stream_secret(h->stream, false);
	stream_ahead(h->stream, true);
}

/* Ready for the next head on this connection; bytes that came early are kept. */
static void next_head(struct h1 *h)
{
	size_t rest = h->have - h->rest_at;

	mem_burn(h->buf, h->rest_at);
	if (rest > 0)
		memmove(h->buf, h->buf + h->rest_at, rest);
	mem_burn(h->buf + rest, h->have - rest);
	h->have = rest;
	h->rest_at = 0;
	request_clear(&h->request);
	forget_exchange(h);
	head_init(&h->parser);
	stream_attach(h->stream, &stream_handler, h);
	stream_secret(h->stream, true);
	stream_ahead(h->stream, false);
	h->state = H1_STATE_HEAD;
	h->first = false;
	if (!deadline_set(&h->deadline, rest > 0 ? h->conf->deadlines.head : h->conf->deadlines.keepalive)) {
		close_stream(h, STREAM_CLOSE_FLUSH);
		return;
	}
	if (stream_queued(h->stream) > 0)
		stream_pause(h->stream, STREAM_PAUSE_PEER_FULL); /* who does not read its answers gets no more of them */
	stream_resume(h->stream, STREAM_PAUSE_IDLE);
	if (rest > 0)
		stream_more(h->stream); /* on_readable parses what is there first */
}

static void h1_respond(struct request *r, const struct response *response)
{
	struct h1 *h = of(r);
	char text[RESPONSE_MAX];
	bool refused = response->status >= 400;
	bool connect_refused = refused && r->method == HEAD_CONNECT &&
			       (r->client->close_after_refusal || h->have > h->rest_at);
	bool stays = r->client->logged_in || loop_now_ms(h->loop) - h->started_ms < STRANGER_MS;
	bool body_left = h->message ? !message_is_read(h->message) : h->body_expected;
	bool keep = h->keep_alive && r->fault == REASON_OK && !body_left && !connect_refused && !h->drain && stays;
	bool lingers = body_left && h->message;
	size_t n = response_format_h1(response, keep, r->method == HEAD_HEAD, text);

	ADIT_ASSERT(h->state == H1_STATE_REQUEST || (h->state == H1_STATE_EXCHANGE && !h->replied));
	h->object = NULL;
	if (h->message)
		stream_close(h->message, STREAM_CLOSE_ABORT);
	if (!stream_write(h->stream, text, n)) {
		close_stream(h, STREAM_CLOSE_ABORT);
		return;
	}
	if (keep)
		next_head(h);
	else if (lingers)
		linger(h);
	else
		close_stream(h, STREAM_CLOSE_FLUSH);
}

static struct stream *h1_accept(struct request *r)
{
	static const char ok[] = "HTTP/1.1 200 Connection established\r\n\r\n";
	struct h1 *h = of(r);
	bool good;

	ADIT_ASSERT(h->state == H1_STATE_REQUEST);
	good = stream_write(h->stream, ok, sizeof(ok) - 1) &&
	       stream_unread(h->stream, h->buf + h->rest_at, h->have - h->rest_at);
	if (!good) {
		close_stream(h, STREAM_CLOSE_ABORT);
		return NULL;
	}
	wipe_buffer(h);
	h->state = H1_STATE_TUNNEL;
	deadline_fini(&h->deadline);
	return h->stream;
}

/* --- an exchange: the messages of a forwarded request and of its response --- */

static bool on_body_ended(void *ctx, struct slice trailers)
{
	struct h1 *h;
	size_t n;

	OBJ_CAST(h, ctx, H1_MAGIC);
	if (trailers.n == 0)
		return true;
	h->trailers = mem_alloc(trailers.n);
	if (!h->trailers)
		return false;
	n = forward_trailers(trailers, h->trailers, trailers.n);
	h->request.trailers = (struct slice){ h->trailers, n };
	return true;
}

static void on_body_broken(void *ctx, enum reason why)
{
	struct h1 *h;

	OBJ_CAST(h, ctx, H1_MAGIC);
	h->request.fault = why;
}

static struct slice reply_trailers(void *ctx)
{
	struct h1 *h;

	OBJ_CAST(h, ctx, H1_MAGIC);
	return h->request.reply_trailers;
}

static void on_message_closed(void *ctx, enum stream_close how)
{
	struct h1 *h;

	OBJ_CAST(h, ctx, H1_MAGIC);
	h->closed_how = how == STREAM_CLOSE_FLUSH && !message_is_written(h->message) ? STREAM_CLOSE_TRUNCATE : how;
	h->body_left = !message_is_read(h->message);
	h->reply_keeps = h->reply_keeps && !h->body_left;
	h->message = NULL;
}

static const struct message_events message_events = {
	.ended = on_body_ended,
	.broken = on_body_broken,
	.trailers = reply_trailers,
	.closed = on_message_closed,
};

static struct stream *h1_exchange(struct request *r)
{
	struct h1 *h = of(r);

	ADIT_ASSERT(h->state == H1_STATE_REQUEST && r->form == HEAD_FORM_ABSOLUTE);
	if (stream_unread(h->stream, h->buf + h->rest_at, h->have - h->rest_at))
		h->message = message_new(h->loop, h->stream, h->conf->http.head_bytes, &message_events, h);
	if (!h->message) {
		close_stream(h, STREAM_CLOSE_ABORT);
		return NULL;
	}
	wipe_buffer(h);
	stream_secret(h->stream, true); /* the next head, with its password, may come along with the body's end */
	h->state = H1_STATE_EXCHANGE;
	message_read_request(h->message, r->framing, r->upgrade);
	return h->message;
}

/* A status line, lines of our own, the fields that pass, the empty line: one write. */
static bool write_head(struct h1 *h, int status, const char *lines, struct slice fields)
{
	char first[64];
	int n = snprintf(first, sizeof(first), "HTTP/1.1 %d %s\r\n", status, response_phrase(status));
	size_t lines_n = strlen(lines), at = (size_t)n;
	char *text;
	bool good;

	ADIT_ASSERT(n > 0 && at < sizeof(first));
	text = mem_alloc(at + lines_n + fields.n + 2);
	if (!text) {
		h->request.fault = REASON_NO_MEMORY;
		return false;
	}
	memcpy(text, first, at);
	memcpy(text + at, lines, lines_n);
	at += lines_n;
	if (fields.n > 0)
		memcpy(text + at, fields.p, fields.n);
	at += fields.n;
	memcpy(text + at, "\r\n", 2);
	good = stream_write(h->stream, text, at + 2);
	mem_free(text);
	return good;
}

/* RFC 9110 15.2: HTTP/1.0 has none; everybody else gets what the target sends. */
static bool h1_interim(struct request *r, int status, struct slice fields)
{
	struct h1 *h = of(r);

	ADIT_ASSERT(h->state == H1_STATE_EXCHANGE && !h->replied && status < 200 && status != 101);
	return h->old || write_head(h, status, "", fields);
}

/* What is chunked or ends with its connection is chunked for everybody who knows that: so the connection can stay, and
 * a body that breaks off can be told from one that ends. */
static struct framing framing_for(const struct h1 *h, struct framing framing)
{
	if (framing.kind == FRAMING_CHUNKED || framing.kind == FRAMING_CLOSE)
		framing.kind = h->old ? FRAMING_CLOSE : FRAMING_CHUNKED;
	return framing;
}

static bool h1_reply(struct request *r, int status, struct slice fields, struct framing framing)
{
	struct h1 *h = of(r);
	char lines[96] = "";
	int n = 0;

	ADIT_ASSERT(h->state == H1_STATE_EXCHANGE && !h->replied);
	h->replied = true;
	if (status == 101) {
		ADIT_ASSERT(r->upgrade);
		stream_secret(h->stream, false);
		message_switch(h->message);
		return write_head(h, status, "Connection: upgrade\r\n", fields);
	}
	if (r->upgrade)
		message_release(h->message);
	framing = framing_for(h, framing);
	message_write(h->message, framing);
	/* With a body still on its way the connection can not stay for sure. */
	h->reply_keeps = h->keep_alive && !h->drain && framing.kind != FRAMING_CLOSE && message_is_read(h->message);
	if (framing.kind == FRAMING_LENGTH)
		n = snprintf(lines, sizeof(lines), "Content-Length: %llu\r\n", framing.length);
	else if (framing.kind == FRAMING_CHUNKED)
		n = snprintf(lines, sizeof(lines), "Transfer-Encoding: chunked\r\n");
	snprintf(lines + n, sizeof(lines) - (size_t)n, "Connection: %s\r\n", h->reply_keeps ? "keep-alive" : "close");
	return write_head(h, status, lines, fields);
}

static void end_exchange(struct h1 *h)
{
	ADIT_ASSERT(!h->message);
	if (h->closed_how == STREAM_CLOSE_FLUSH && h->reply_keeps && !h->drain)
		next_head(h);
	else if (h->closed_how == STREAM_CLOSE_FLUSH && h->body_left)
		linger(h);
	else
		close_stream(h, h->closed_how);
}

static void h1_end(struct request *r)
{
	struct h1 *h = of(r);

	h->object = NULL;
	if (h->state == H1_STATE_EXCHANGE)
		end_exchange(h);
	else
		h->state = H1_STATE_CLOSED;
}

static const struct request_ops ops = {
	.forget = h1_forget,
	.respond = h1_respond,
	.accept = h1_accept,
	.end = h1_end,
	.exchange = h1_exchange,
	.interim = h1_interim,
	.reply = h1_reply,
};

/* --- reading heads --- */

static void begin_request(struct h1 *h, const struct head *head, enum reason fault)
{
	struct request *r = &h->request;
	void *object;
	bool kept;

	*r = (struct request){ .ops = &ops, .client = r->client, .conf = h->conf };
	kept = request_fill(r, head, fault, head->minor_version == 0 && fault == REASON_OK ? "http/1.0" : "http/1.1");
	h->keep_alive = head->keep_alive;
	h->old = head->minor_version == 0;
	h->body_expected = head->chunked || head->content_length > 0;
	h->rest_at = fault == REASON_OK ? head->head_bytes : h->have;
	stream_pause(h->stream, STREAM_PAUSE_IDLE);
	deadline_clear(&h->deadline);
	h->state = H1_STATE_REQUEST;
	if (!kept) {
		close_stream(h, STREAM_CLOSE_ABORT);
		stats_reason(REASON_NO_MEMORY);
		return;
	}
	/* The handler may answer inside this call: then there is no object to remember. */
	object = h->handler.begin(h->handler_ctx, r);
	if (h->state == H1_STATE_REQUEST || h->state == H1_STATE_TUNNEL || h->state == H1_STATE_EXCHANGE)
		h->object = object;
}

/* Room for more bytes of the head; grows to the configured limit and no further. */
static bool make_room(struct h1 *h)
{
	size_t most = h->conf->http.head_bytes;
	size_t size = h->size == 0 ? HEAD_FIRST_BYTES : h->size * 2;
	char *grown;

	if (h->have < h->size)
		return true;
	if (size > most)
		size = most;
	ADIT_ASSERT(size > h->have); /* the parser decides before the buffer is full */
	grown = mem_alloc(size); /* not realloc, which would leave a copy of the credentials behind */
	if (!grown)
		return false;
	if (h->have > 0)
		memcpy(grown, h->buf, h->have);
	mem_burn(h->buf, h->have);
	mem_free(h->buf);
	h->buf = grown;
	h->size = size;
	return true;
}

/* True when the bytes at hand made a request (good or bad). */
static bool parse(struct h1 *h)
{
	struct head_limits limits = {
		.request_line_bytes = h->conf->http.request_line_bytes,
		.head_bytes = h->conf->http.head_bytes,
		.fields = h->conf->http.fields,
	};
	enum reason why = REASON_OK;
	struct head head = { 0 };

	if (h->have == 0)
		return false;
	switch (head_parse(&h->parser, h->buf, h->have, &limits, &head, &why)) {
	case HEAD_PARTIAL:
		return false;
	case HEAD_DONE:
		begin_request(h, &head, REASON_OK);
		return true;
	default:
		begin_request(h, &head, why);
		return true;
	}
}

/* The client ended or broke before its head was complete. */
static void client_left(struct h1 *h)
{
	bool idle = h->have == 0;

	if (!idle || h->first)
		stats_reason(REASON_CLIENT_GONE);
	close_stream(h, idle && stream_fault(h->stream) == STREAM_FAULT_NONE ? STREAM_CLOSE_FLUSH : STREAM_CLOSE_ABORT);
}

static void read_more(struct h1 *h)
{
	size_t n = 0;

	/* At most what the buffer takes; a head is small, and more would only be early data. */
	while (h->state == H1_STATE_HEAD) {
		if (parse(h))
			return;
		if (!make_room(h)) {
			stats_reason(REASON_NO_MEMORY);
			close_stream(h, STREAM_CLOSE_ABORT);
			return;
		}
		switch (stream_read(h->stream, h->buf + h->have, h->size - h->have, &n)) {
		case STREAM_IO_OK:
			if (h->have == 0 && !h->first && !deadline_set(&h->deadline, h->conf->deadlines.head)) {
				close_stream(h, STREAM_CLOSE_ABORT);
				return;
			}
			h->have += n;
			break;
		case STREAM_IO_AGAIN:
			return;
		default:
			client_left(h);
			return;
		}
	}
}

static void on_readable(void *ctx)
{
	struct h1 *h;

	OBJ_CAST(h, ctx, H1_MAGIC);
	if (h->state == H1_STATE_HEAD)
		read_more(h);
}

static void on_drained(void *ctx)
{
	struct h1 *h;

	OBJ_CAST(h, ctx, H1_MAGIC);
	stream_resume(h->stream, STREAM_PAUSE_PEER_FULL);
	if (h->state == H1_STATE_HEAD && h->have > 0)
		stream_more(h->stream);
}

static void on_fault(void *ctx)
{
	struct h1 *h;

	OBJ_CAST(h, ctx, H1_MAGIC);
	h1_abort(h, REASON_CLIENT_RESET);
}

static const struct stream_handler stream_handler = { on_readable, on_drained, on_fault };

static void on_deadline(void *ctx)
{
	struct h1 *h;
	struct head nothing = { .method = HEAD_OTHER };

	OBJ_CAST(h, ctx, H1_MAGIC);
	if (h->state == H1_STATE_LINGER) {
		close_stream(h, STREAM_CLOSE_FLUSH);
		return;
	}
	ADIT_ASSERT(h->state == H1_STATE_HEAD);
	if (h->have == 0) {
		/* nothing was asked: nothing to answer */
		stats_reason(h->first ? REASON_HEAD_TIMEOUT : REASON_KEEPALIVE_TIMEOUT);
		close_stream(h, STREAM_CLOSE_FLUSH);
		return;
	}
	begin_request(h, &nothing, REASON_HEAD_TIMEOUT);
}

struct h1 *h1_start(struct loop *loop, struct stream *stream, const struct client *client, struct conf *conf,
	const struct http_handler *handler, void *handler_ctx)
{
	struct h1 *h = mem_alloc(sizeof(*h));

	if (!h)
		return NULL;
	OBJ_INIT(h, H1_MAGIC);
	h->loop = loop;
	h->stream = stream;
	h->request.client = client;
	h->handler = *handler;
	h->handler_ctx = handler_ctx;
	h->first = true;
	h->started_ms = loop_now_ms(loop);
	head_init(&h->parser);
	deadline_init(&h->deadline, loop, on_deadline, h);
	if (!deadline_set(&h->deadline, conf->deadlines.head)) {
		deadline_fini(&h->deadline);
		mem_free(h);
		return NULL;
	}
	h->conf = conf_ref(conf);
	stream_attach(stream, &stream_handler, h);
	stream_secret(stream, true);
	stream_resume(stream, STREAM_PAUSE_IDLE);
	return h;
}

void h1_free(struct h1 *h)
{
	if (!h)
		return;
	OBJ_CHECK(h, H1_MAGIC);
	ADIT_ASSERT(h->state == H1_STATE_CLOSED && !h->object);
	deadline_fini(&h->deadline);
	wipe_buffer(h);
	forget_exchange(h);
	request_clear(&h->request);
	conf_unref(h->conf);
	OBJ_FINI(h);
	mem_free(h);
}

void h1_abort(struct h1 *h, enum reason reason)
{
	void *object = h->object;

	switch (h->state) {
	case H1_STATE_HEAD:
	case H1_STATE_LINGER:
		close_stream(h, STREAM_CLOSE_FLUSH);
		return;
	case H1_STATE_REQUEST:
		h->object = NULL;
		if (object)
			h->handler.gone(object, reason);
		close_stream(h, STREAM_CLOSE_ABORT);
		return;
	case H1_STATE_TUNNEL:
	case H1_STATE_EXCHANGE:
		if (object)
			h->handler.gone(object, reason);
		return;
	case H1_STATE_CLOSED:
		return;
	}
}

void h1_drain(struct h1 *h)
{
	h->drain = true;
	if (h->state == H1_STATE_HEAD && h->have == 0)
		close_stream(h, STREAM_CLOSE_FLUSH);
}
