/* HTTP/1.x towards the client (RFC 9112).
 *
 * Hard part: what stays after a head. The head with its credentials lies in a buffer of our own that is wiped as soon
 * as the handler has seen them (forget); what came behind it is early data of a tunnel that may never be allowed. So it
 * waits in the same buffer, unread by anyone, until the answer is known: 200 gives it to the tunnel, a refusal drops it
 * with the connection (RFC 9931), since bytes behind a refused CONNECT must never be taken for a request. */
#include "adit/http/h1.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"

enum { HEAD_FIRST_BYTES = 2048 };

/* How long a stranger may keep a connection by asking for health and the like. */
enum { STRANGER_MS = 30000 };

enum h1_state {
	H1_STATE_HEAD, /* reading a request head */
	H1_STATE_REQUEST, /* the handler is at work; nothing is read */
	H1_STATE_TUNNEL, /* the stream is the handler's */
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
	unsigned long long started_ms;
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

static void close_stream(struct h1 *h, enum stream_close how)
{
	ADIT_ASSERT(h->state != H1_STATE_CLOSED && h->state != H1_STATE_TUNNEL);
	h->state = H1_STATE_CLOSED;
	deadline_clear(&h->deadline);
	wipe_buffer(h);
	stream_close(h->stream, how);
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
	head_init(&h->parser);
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
	bool keep = h->keep_alive && r->fault == REASON_OK && !h->body_expected && !connect_refused && !h->drain && stays;
	size_t n = response_format_h1(response, keep, r->method == HEAD_HEAD, text);

	ADIT_ASSERT(h->state == H1_STATE_REQUEST);
	h->object = NULL;
	if (!stream_write(h->stream, text, n)) {
		close_stream(h, STREAM_CLOSE_ABORT);
		return;
	}
	if (!keep) {
		close_stream(h, STREAM_CLOSE_FLUSH);
		return;
	}
	next_head(h);
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

static void h1_end(struct request *r)
{
	struct h1 *h = of(r);

	h->object = NULL;
	h->state = H1_STATE_CLOSED;
}

static const struct request_ops ops = {
	.forget = h1_forget,
	.respond = h1_respond,
	.accept = h1_accept,
	.end = h1_end,
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
	if (h->state == H1_STATE_REQUEST || h->state == H1_STATE_TUNNEL)
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
		close_stream(h, STREAM_CLOSE_FLUSH);
		return;
	case H1_STATE_REQUEST:
		h->object = NULL;
		if (object)
			h->handler.gone(object, reason);
		close_stream(h, STREAM_CLOSE_ABORT);
		return;
	case H1_STATE_TUNNEL:
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
