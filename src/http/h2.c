/* The life of an HTTP/2 connection.
 *
 *   bytes -> nghttp2_session_mem_recv -> news of streams -> handlers, relays
 *   handlers, relays -> queues -> one flush per turn: nghttp2_session_mem_send -> the stream below
 *
 * Hard part: the end. The stream below is closed only when no stream of ours is left, since records and relays look at
 * the connection until then; whoever ends it (client, fault, abort, drain) goes through h2_end. */
#include "http/h2_priv.h"

#define H2_MAGIC OBJ_MAGIC('h', '2', 'c', 'n')

enum {
	STRANGER_MS = 30000, /* how long a stranger may keep a connection by asking for health and the like */
	NOTICE_MS = 1000, /* between the two steps of a drain: requests on their way still come in */
	READ_BYTES = 1024 * 1024, /* of a client, at most, in one turn */
	READ_SHARE = 128 * 1024, /* of it for each stream: what comes for a target in one turn leaves in one send */
	CONTROL_BYTES = 2048, /* control frames gather, so that not each has a TLS record of its own */
	TOO_MANY_CONTINUATIONS = -905, /* nghttp2's; not all of its versions have a name for it */
};

/* --- the end --- */

void h2_settle(struct h2 *h)
{
	if (h->count > 0 || h->closed)
		return;
	if (!h->ending) {
		/* idle from here on */
		bool stays = h->client->logged_in || loop_now_ms(h->loop) - h->started_ms < STRANGER_MS;

		h2_post_flush(h); /* maybe a GOAWAY has waited for it */
		if (h->draining || !stays || !deadline_set(&h->idle, h->conf->deadlines.keepalive))
			loop_post(h->loop, &h->leave);
		return;
	}
	loop_post(h->loop, &h->flush); /* the last frames, then the close */
}

/* Both ends have been said, and ours has left: such a stream needs the client no more, and finishes by itself. */
static bool outlives(const struct h2_stream *s, enum reason reason)
{
	return reason == REASON_CLIENT_RESET && s->live && !s->open && !s->broken;
}

static void drop_streams(struct h2 *h, enum reason reason)
{
	struct h2_stream *s, *next;

	for (s = TAILQ_FIRST(&h->streams); s; s = next) {
		next = TAILQ_NEXT(s, entry);
		if (!outlives(s, reason))
			h2_stream_gone(s, reason);
	}
}

void h2_end(struct h2 *h, enum reason reason, enum stream_close how)
{
	if (h->ending)
		return;
	h->ending = true;
	h->how = how;
	deadline_clear(&h->head);
	deadline_clear(&h->idle);
	stream_pause(h->stream, STREAM_PAUSE_IDLE);
	drop_streams(h, reason);
	h2_settle(h);
}

/* GOAWAY says why; then the end. */
static void goodbye(struct h2 *h, uint32_t error, enum reason reason)
{
	if (!h->session_failed && nghttp2_session_terminate_session(h->session, error) != 0)
		h->session_failed = true;
	h2_end(h, reason, h->session_failed ? STREAM_CLOSE_ABORT : STREAM_CLOSE_FLUSH);
}

static void no_op(struct request *r ADIT_UNUSED)
{
}

static void no_response(struct request *r ADIT_UNUSED, const struct response *response ADIT_UNUSED)
{
}

/* What the connection as a whole has done goes on record as a request that is refused; its answer is the GOAWAY. */
static void refuse(struct h2 *h, uint32_t error, enum reason reason)
{
	static const struct request_ops ops = { .forget = no_op, .respond = no_response };
	const struct head nothing = { .method = HEAD_OTHER };
	struct request *r = &h->refused;

	if (h->ending)
		return;
	*r = (struct request){ .ops = &ops, .client = h->client, .conf = h->conf };
	if (request_fill(r, &nothing, reason, "h2"))
		(void)h->handler.begin(h->handler_ctx, r);
	else
		stats_reason(REASON_NO_MEMORY);
	goodbye(h, error, reason);
}

static void close_below(struct h2 *h)
{
	h->closed = true;
	loop_unpost(h->loop, &h->flush);
	loop_unpost(h->loop, &h->leave);
	stream_close(h->stream, h->how);
}

static void on_leave(void *ctx)
{
	struct h2 *h;

	OBJ_CAST(h, ctx, H2_MAGIC);
	if (h->count == 0 && !h->ending)
		goodbye(h, NGHTTP2_NO_ERROR, REASON_OK);
}

/* --- out --- */

void h2_post_flush(struct h2 *h)
{
	if (!h->closed)
		loop_post(h->loop, &h->flush);
}

void h2_news(struct h2_stream *s)
{
	if (s->has_news || s->buried)
		return;
	TAILQ_INSERT_TAIL(&s->h->news, s, news_entry);
	s->has_news = true;
	h2_post_flush(s->h);
}

static void tell(struct h2 *h)
{
	struct h2_stream *s;

	while ((s = TAILQ_FIRST(&h->news))) {
		TAILQ_REMOVE(&h->news, s, news_entry);
		s->has_news = false;
		h2_stream_tell(s);
	}
}

/* Bytes that have left for targets. Whose target is full keeps the debt until it has drained. */
static void credit(struct h2 *h)
{
	struct h2_stream *s, *next;

	for (s = TAILQ_FIRST(&h->lent); s; s = next) {
		next = TAILQ_NEXT(s, lent_entry);
		if (s->base.pause & STREAM_PAUSE_PEER_FULL)
			continue;
		TAILQ_REMOVE(&h->lent, s, lent_entry);
		s->is_lent = false;
		h2_window_credit(s);
	}
}

struct control {
	size_t n;
	char bytes[CONTROL_BYTES];
};

static bool write_control(struct h2 *h, struct control *c)
{
	size_t n = c->n;

	c->n = 0;
	return n == 0 || stream_write(h->stream, c->bytes, n);
}

/* One frame of nghttp2's making; 1: written or gathered, 0: there is none, -1: fault. */
static int write_frame(struct h2 *h, struct control *c, size_t *sent)
{
	const uint8_t *p = NULL;
	ssize_t n;

	h->inside = true;
	n = nghttp2_session_mem_send(h->session, &p);
	h->inside = false;
	if (n < 0) {
		h->session_failed = true;
		return -1;
	}
	if (h->sending) {
		struct h2_stream *s = h->sending;
		bool good = write_control(h, c) && stream_write(h->stream, h->out_p, h->out_n);

		*sent += h->out_n;
		h->sending = NULL;
		h2_guard_data(&h->guard, h->out_n);
		/* not when the client has opened its window by some bytes only: then every frame is one it ordered */
		if (nghttp2_session_get_stream_remote_window_size(h->session, s->id) > H2_CHUNK_BYTES)
			h2_guard_frame(&h->guard);
		h2_stream_sent(s, h->out_n - H2_FRAME_HEADER_BYTES);
		return good ? 1 : -1;
	}
	if (n == 0)
		return 0;
	*sent += (size_t)n;
	if ((size_t)n > sizeof(c->bytes) - c->n && !write_control(h, c))
		return -1;
	if ((size_t)n > sizeof(c->bytes))
		return stream_write(h->stream, p, (size_t)n) ? 1 : -1;
	memcpy(c->bytes + c->n, p, (size_t)n);
	c->n += (size_t)n;
	return 1;
}

/* False: nothing more can be sent. */
static bool write_frames(struct h2 *h)
{
	struct control control = { .n = 0 };
	size_t sent = 0;
	int more = 1;

	stream_cork(h->stream, true);
	while (more > 0 && sent < H2_TURN_BYTES && stream_queued(h->stream) == 0)
		more = write_frame(h, &control, &sent);
	if (!write_control(h, &control))
		more = -1;
	stream_cork(h->stream, false);
	if (more > 0 && stream_queued(h->stream) == 0)
		h2_post_flush(h);
	return more >= 0 && stream_fault(h->stream) == STREAM_FAULT_NONE;
}

/* A client who does not read his answers gets no more of his frames read, for those that want answers would be kept. */
static void hold_or_resume(struct h2 *h)
{
	bool much = !h->session_failed && (nghttp2_session_get_outbound_queue_size(h->session) > H2_FRAMES_MAX ||
					      h->heads_total > H2_OUT_MAX);

	if (much)
		stream_pause(h->stream, STREAM_PAUSE_PEER_FULL);
	else
		stream_resume(h->stream, STREAM_PAUSE_PEER_FULL);
}

static bool can_write(const struct h2 *h)
{
	return h->heard && !h->closed && !h->inside && !h->session_failed && stream_fault(h->stream) == STREAM_FAULT_NONE;
}

void h2_write_through(struct h2 *h)
{
	if (can_write(h) && !h->ending && !write_frames(h))
		h2_post_flush(h); /* which finds the fault */
}

static enum reason reason_of_fault(const struct h2 *h)
{
	switch (stream_fault(h->stream)) {
	case STREAM_FAULT_PROTOCOL:
		return REASON_CLIENT_TLS_ERROR;
	case STREAM_FAULT_MEMORY:
		return REASON_NO_MEMORY;
	default:
		return REASON_CLIENT_RESET;
	}
}

static void on_flush(void *ctx)
{
	struct h2 *h;
	bool broken;

	OBJ_CAST(h, ctx, H2_MAGIC);
	tell(h);
	if (!h->ending)
		credit(h);
	broken = can_write(h) && !write_frames(h);
	hold_or_resume(h);
	tell(h);
	if (h->ending) {
		/* a client that does not read its GOAWAY is closed like any other that does not read */
		if (h->count == 0 && !h->closed)
			close_below(h);
		return;
	}
	if (h->session_failed)
		h2_end(h, REASON_NO_MEMORY, STREAM_CLOSE_ABORT);
	else if (broken || stream_fault(h->stream) != STREAM_FAULT_NONE)
		h2_end(h, REASON_CLIENT_RESET, STREAM_CLOSE_ABORT);
	else if (h->abuse)
		refuse(h, NGHTTP2_ENHANCE_YOUR_CALM, REASON_H2_ABUSE);
	else if (h->faulty)
		refuse(h, NGHTTP2_PROTOCOL_ERROR, REASON_H2_PROTOCOL);
	else if (h->count == 0 && !nghttp2_session_want_read(h->session) && !nghttp2_session_want_write(h->session))
		h2_end(h, REASON_OK, STREAM_CLOSE_FLUSH); /* behind a GOAWAY and all that it let through */
	else
		h2_stream_feed(h);
}

/* --- in --- */

void h2_spend(struct h2 *h, enum h2_cost cost)
{
	if (!h2_guard_spend(&h->guard, cost, loop_now_ms(h->loop)))
		h->abuse = true;
}

/* Deadlines follow what there is: PINGs while streams live. */
static void set_idle(struct h2 *h)
{
	unsigned ms = h->draining && !h->said_last ? NOTICE_MS : h->conf->http2.ping_ms;

	if (h->count > 0 && !h->ending && !deadline_set(&h->idle, ms))
		goodbye(h, NGHTTP2_INTERNAL_ERROR, REASON_NO_MEMORY);
}

/* nghttp2 does not tell of all that it reads: what is for a stream that is over, or too much, it passes by. */
static void follow(struct h2_place *at, const char *p, size_t n)
{
	while (n > 0) {
		size_t here = n < at->left ? n : at->left;

		at->left -= here;
		p += here;
		n -= here;
		if (n == 0)
			return;
		at->header[at->header_n++] = (unsigned char)*p++;
		n--;
		if (at->header_n < H2_FRAME_HEADER_BYTES)
			continue;
		at->header_n = 0;
		at->left = (size_t)at->header[0] << 16 | (size_t)at->header[1] << 8 | at->header[2];
		at->large = at->left >= H2_LARGE_BYTES && at->header[3] == NGHTTP2_DATA &&
			    (at->header[4] & NGHTTP2_FLAG_PADDED) == 0;
	}
}

/* Where the next bytes go to, and how many. Large DATA frames are read one by one, payload and header: a payload goes
 * to where it can stay, and need not be wiped here and inside OpenSSL as must be all that may hold credentials. */
static char *place(struct h2 *h, size_t *size)
{
	bool behind_payload = h->bare && h->at.left == 0;
	bool bare = h->at.large && h->at.left > 0 && h->client->logged_in;

	if (bare && !h->landing)
		h->landing = h2_chunk_new(&h->spare);
	bare = bare && h->landing;
	if (bare != h->bare)
		stream_secret(h->stream, !bare);
	h->bare = bare;
	if (bare)
		*size = h->at.left < H2_RECORD_BYTES ? h->at.left : H2_RECORD_BYTES;
	else
		*size = behind_payload ? H2_FRAME_HEADER_BYTES : h->buffer_bytes;
	return bare ? h->landing->bytes : h->buffer;
}

static ssize_t feed(struct h2 *h, char *p, size_t n)
{
	ssize_t rv;

	if (!h->heard) { /* the preface: the SETTINGS go out now, and their acknowledgement tells the round trip */
		h->heard_bytes += n;
		h->heard = h->rtt_asked = h->heard_bytes >= H2_PREFACE_BYTES;
		h->asked_ms = loop_now_ms(h->loop);
	}
	h->heard_ms = loop_now_ms(h->loop);
	h->ping_sent = false;
	h->inside = true;
	rv = nghttp2_session_mem_recv(h->session, (const uint8_t *)p, n);
	h->inside = false;
	follow(&h->at, p, n);
	if (!h->bare)
		mem_burn(p, n);
	if (rv == NGHTTP2_ERR_NOMEM || rv == NGHTTP2_ERR_CALLBACK_FAILURE)
		h->session_failed = true;
	return rv;
}

/* What has come is told to whom it concerns. */
static void took(struct h2 *h, ssize_t rv)
{
	tell(h);
	if (h->abuse || rv == NGHTTP2_ERR_FLOODED || rv == TOO_MANY_CONTINUATIONS)
		refuse(h, NGHTTP2_ENHANCE_YOUR_CALM, REASON_H2_ABUSE);
	else if (rv < 0)
		goodbye(h, NGHTTP2_PROTOCOL_ERROR, h->session_failed ? REASON_NO_MEMORY : REASON_H2_PROTOCOL);
	else if (!h->client->logged_in && h->heard_ms - h->started_ms >= STRANGER_MS)
		h2_drain(h);
	hold_or_resume(h);
	h2_post_flush(h); /* windows may have opened */
}

/* The client ended or broke the connection. */
static void client_left(struct h2 *h)
{
	bool idle = h->count == 0;

	if (!h->heard)
		stats_reason(REASON_CLIENT_GONE);
	h2_end(h, reason_of_fault(h),
	    idle && stream_fault(h->stream) == STREAM_FAULT_NONE ? STREAM_CLOSE_FLUSH : STREAM_CLOSE_ABORT);
}

static void on_readable(void *ctx)
{
	struct h2 *h;
	unsigned before;
	enum stream_io io;
	size_t n, size, most, total = 0;
	ssize_t rv = 0;

	OBJ_CAST(h, ctx, H2_MAGIC);
	if (h->ending)
		return;
	if (h->session_failed) {
		h2_end(h, REASON_NO_MEMORY, STREAM_CLOSE_ABORT);
		return;
	}
	before = h->count;
	most = before * READ_SHARE < READ_BYTES ? before * READ_SHARE : READ_BYTES;
	if (most < h->buffer_bytes)
		most = h->buffer_bytes;
	do {
		char *p = place(h, &size);

		io = stream_read(h->stream, p, size, &n);
		if (io != STREAM_IO_OK)
			break;
		rv = feed(h, p, n);
		total += n;
	} while (n == size && total + H2_RECORD_BYTES <= most && rv >= 0 && !h->abuse && h->client->logged_in);
	if (h->landing) {
		h2_chunk_drop(h->landing, &h->spare);
		h->landing = NULL;
	}
	if (total == 0) {
		if (io != STREAM_IO_AGAIN)
			client_left(h);
		return;
	}
	if (before == 0)
		set_idle(h);
	took(h, rv);
	if (!h->ending && io != STREAM_IO_AGAIN && (io != STREAM_IO_OK || n == size))
		stream_more(h->stream);
}

static void on_drained(void *ctx)
{
	struct h2 *h;

	OBJ_CAST(h, ctx, H2_MAGIC);
	h2_post_flush(h);
}

static void on_fault(void *ctx)
{
	struct h2 *h;

	OBJ_CAST(h, ctx, H2_MAGIC);
	h2_end(h, reason_of_fault(h), STREAM_CLOSE_ABORT);
}

static const struct stream_handler stream_handler = { on_readable, on_drained, on_fault };

/* --- deadlines --- */

/* No request came, or only half of one. */
static void on_head_deadline(void *ctx)
{
	struct h2 *h;

	OBJ_CAST(h, ctx, H2_MAGIC);
	if (h->head_id != 0) {
		refuse(h, NGHTTP2_NO_ERROR, REASON_HEAD_TIMEOUT);
		return;
	}
	stats_reason(REASON_HEAD_TIMEOUT); /* nothing was asked: nothing to put on record */
	goodbye(h, NGHTTP2_NO_ERROR, REASON_HEAD_TIMEOUT);
}

/* With streams: is the client still there? Without: it has had its time. */
static void on_idle(void *ctx)
{
	struct h2 *h;
	unsigned long long quiet;

	OBJ_CAST(h, ctx, H2_MAGIC);
	quiet = loop_now_ms(h->loop) - h->heard_ms;
	h2_spare_trim(&h->spare, 0);
	if (h->count == 0) {
		stats_reason(REASON_KEEPALIVE_TIMEOUT);
		goodbye(h, NGHTTP2_NO_ERROR, REASON_KEEPALIVE_TIMEOUT);
		return;
	}
	if (h->draining && !h->said_last) {
		h->said_last = true;
		if (nghttp2_submit_goaway(h->session, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h->session),
			NGHTTP2_NO_ERROR, NULL, 0) != 0)
			h->session_failed = true;
	} else if (h->ping_sent && quiet >= h->conf->http2.ping_ms) {
		h2_end(h, REASON_CLIENT_TIMEOUT, STREAM_CLOSE_ABORT);
		return;
	} else if (quiet >= h->conf->http2.ping_ms) {
		h->ping_sent = h->rtt_asked = true;
		h->asked_ms = loop_now_ms(h->loop);
		if (nghttp2_submit_ping(h->session, NGHTTP2_FLAG_NONE, NULL) != 0)
			h->session_failed = true;
	}
	set_idle(h);
	h2_post_flush(h);
}

/* --- from the outside --- */

struct h2 *h2_start(struct loop *loop, struct stream *stream, const struct client *client, struct conf *conf,
	const struct http_handler *handler, void *handler_ctx, char *buffer, size_t buffer_bytes)
{
	struct h2 *h = mem_alloc(sizeof(*h));
	size_t most = conf->http2.window_bytes / H2_WINDOW_FIRST;

	if (!h)
		return NULL;
	OBJ_INIT(h, H2_MAGIC);
	h->loop = loop;
	h->stream = stream;
	h->client = client;
	h->conf = conf;
	h->handler = *handler;
	h->handler_ctx = handler_ctx;
	h->buffer = buffer;
	h->buffer_bytes = buffer_bytes;
	h->at.left = H2_PREFACE_BYTES;
	h->started_ms = h->heard_ms = loop_now_ms(loop);
	h->streams_max = conf->http2.streams < most ? conf->http2.streams : (unsigned)most;
	TAILQ_INIT(&h->streams);
	TAILQ_INIT(&h->news);
	TAILQ_INIT(&h->lent);
	TAILQ_INIT(&h->hungry);
	h2_spare_init(&h->spare);
	h2_guard_init(&h->guard, h->started_ms);
	loop_task_init(&h->flush, on_flush, h);
	loop_task_init(&h->leave, on_leave, h);
	deadline_init(&h->head, loop, on_head_deadline, h);
	deadline_init(&h->idle, loop, on_idle, h);
	if (!h2_session_make(h) || !deadline_set(&h->head, conf->deadlines.head)) {
		deadline_fini(&h->head);
		h2_session_drop(h);
		OBJ_FINI(h);
		mem_free(h);
		return NULL;
	}
	conf_ref(conf);
	stream_attach(stream, &stream_handler, h);
	stream_secret(stream, true); /* each stream brings its credentials */
	stream_resume(stream, STREAM_PAUSE_IDLE);
	return h;
}

void h2_free(struct h2 *h)
{
	if (!h)
		return;
	OBJ_CHECK(h, H2_MAGIC);
	ADIT_ASSERT(h->closed && h->count == 0);
	deadline_fini(&h->head);
	deadline_fini(&h->idle);
	h2_session_drop(h);
	h2_spare_trim(&h->spare, 0);
	request_clear(&h->refused);
	conf_unref(h->conf);
	OBJ_FINI(h);
	mem_free(h);
}

bool h2_was_used(const struct h2 *h)
{
	return h->used;
}

void h2_abort(struct h2 *h, enum reason reason)
{
	OBJ_CHECK(h, H2_MAGIC);
	if (h->ending)
		drop_streams(h, reason);
	else
		goodbye(h, NGHTTP2_NO_ERROR, reason);
}

void h2_drain(struct h2 *h)
{
	OBJ_CHECK(h, H2_MAGIC);
	if (h->draining || h->ending)
		return;
	h->draining = true;
	if (h->count == 0) {
		goodbye(h, NGHTTP2_NO_ERROR, REASON_OK);
		return;
	}
	if (!h->session_failed && nghttp2_submit_shutdown_notice(h->session) != 0)
		h->session_failed = true;
	set_idle(h);
	h2_post_flush(h);
}
