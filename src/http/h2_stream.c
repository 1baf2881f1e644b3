/* One stream: a request, then what its handler makes of it: an answer, a tunnel, an exchange.
 *
 * Windows are the back-pressure. Upwards a stream may send us what its window says; bytes give their room back when
 * they have left for the target. What was advertised cannot be taken back, so what is budgeted is the sum of windows,
 * not of bytes. Downwards a writer is told how much is wanted (`room`): what the client's window takes and what the
 * connection may queue; a client that does not read costs no queue at all. */
#include "http/h2_priv.h"

#include "adit/http/forward.h"

#include <stdio.h>

#define H2_STREAM_MAGIC OBJ_MAGIC('h', '2', 's', 't')

enum {
	PROBED_WINDOW = 8 * 1024 * 1024, /* windows of this size and more are not used up */
	PROBES = 128, /* their last bytes: for as long as a stalled tunnel is let live, unless configured otherwise */
	PROBE_FIRST_MS = 20,
	PROBE_MOST_MS = 5000,
};

static struct h2_stream *of(const struct stream *s)
{
	return OBJ_OF(s, struct h2_stream, base);
}

static struct h2_stream *of_request(struct request *r)
{
	return OBJ_OF(r, struct h2_stream, request);
}

/* --- ends --- */

static void forget_window(struct h2_stream *s)
{
	s->h->windows -= s->window;
	s->window = 0;
}

static void sate(struct h2_stream *s)
{
	TAILQ_REMOVE(&s->h->hungry, s, hungry_entry);
	s->h->hungry_count--;
	s->is_hungry = false;
}

static void leave_lists(struct h2_stream *s)
{
	struct h2 *h = s->h;

	if (s->has_news)
		TAILQ_REMOVE(&h->news, s, news_entry);
	if (s->is_lent)
		TAILQ_REMOVE(&h->lent, s, lent_entry);
	if (s->is_hungry)
		sate(s);
	s->has_news = s->is_lent = false;
}

static void on_grave(void *ctx)
{
	struct h2_stream *s;

	s = ctx;
	ADIT_ASSERT(s->magic == H2_STREAM_MAGIC);
	if (s->base.magic)
		stream_closed(&s->base);
	request_clear(&s->request);
	mem_free(s->trailers);
	mem_free(s->reply_trailers);
	OBJ_FINI(s);
	mem_free(s);
}

static void drop_in(struct h2_stream *s)
{
	s->h->in_total -= s->in.n;
	h2_queue_clear(&s->in, &s->h->spare);
}

/* The request has its answer. */
static void unhold(struct h2_stream *s)
{
	s->h->held_bytes -= s->held_bytes;
	s->held_bytes = 0;
	s->held = false;
	s->object = NULL;
}

/* Nobody knows it any more: not nghttp2, not the handler. */
static void settle(struct h2_stream *s)
{
	struct h2 *h = s->h;

	if (s->open || s->live || s->held || s->fresh || s->buried)
		return;
	s->buried = true;
	forget_window(s);
	leave_lists(s);
	deadline_fini(&s->linger);
	deadline_fini(&s->probe);
	h->out_total -= s->out.n;
	h->heads_total -= s->heads;
	h2_queue_clear(&s->out, &h->spare);
	drop_in(s);
	h2_head_wipe(&s->head);
	h2_head_wipe(&s->tail);
	h2_text_wipe(&s->text);
	TAILQ_REMOVE(&h->streams, s, entry);
	h->count--;
	loop_bury(h->loop, &s->grave, on_grave, s);
	h2_settle(h);
}

/* No more news of it from nghttp2. */
static void let_go(struct h2_stream *s)
{
	s->open = false;
	forget_window(s);
	deadline_clear(&s->linger);
	deadline_clear(&s->probe);
	if (!s->h->session_failed)
		(void)nghttp2_session_set_stream_user_data(s->h->session, s->id, NULL);
}

/* RST_STREAM behind it. */
static void detach(struct h2_stream *s, uint32_t error)
{
	struct h2 *h = s->h;

	if (!s->open)
		return;
	let_go(s);
	if (!h->session_failed && nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, s->id, error) != 0)
		h->session_failed = true;
	h2_post_flush(h);
}

static void on_linger(void *ctx)
{
	struct h2_stream *s;

	s = ctx;
	ADIT_ASSERT(s->magic == H2_STREAM_MAGIC);
	detach(s, s->last_error ? s->last_error : NGHTTP2_CANCEL);
	settle(s);
}

/* What is queued has so long to leave. */
static void linger(struct h2_stream *s)
{
	if (!deadline_set(&s->linger, s->h->conf->deadlines.linger))
		detach(s, NGHTTP2_INTERNAL_ERROR);
}

static void resume(struct h2_stream *s)
{
	struct h2 *h = s->h;

	if (s->open && s->replied && !h->session_failed) {
		/* not deferred: nghttp2 says so, and asks by itself */
		int rv = nghttp2_session_resume_data(h->session, s->id);

		h->session_failed = nghttp2_is_fatal(rv);
	}
	h2_post_flush(h);
}

/* --- DATA out --- */

static void on_probe(void *ctx)
{
	struct h2_stream *s;

	s = ctx;
	ADIT_ASSERT(s->magic == H2_STREAM_MAGIC);
	s->probing = true;
	resume(s);
}

/* Keeps them back until the client has opened its window, or until it is time to send one of them. */
static size_t withhold(struct h2_stream *s, size_t n)
{
	if (s->probing) {
		s->probing = false;
		return 1;
	}
	if (s->probe.at_ms == 0) {
		s->probe_ms = s->probe_ms == 0 ? PROBE_FIRST_MS : 2 * s->probe_ms;
		if (s->probe_ms > PROBE_MOST_MS)
			s->probe_ms = PROBE_MOST_MS;
		if (!deadline_set(&s->probe, s->probe_ms))
			return n;
	}
	s->withheld = true;
	return 0;
}

/* How many of n bytes may go now. Firefox opens the window of a tunnel only when DATA comes by it: once the window was
 * used up while a page took nothing, each side would wait for the other. So the last bytes of a large window go out one
 * by one, and each asks for the room that has become free. */
static size_t within_window(struct h2_stream *s, size_t n)
{
	long long window = nghttp2_session_get_stream_remote_window_size(s->h->session, s->id);

	if (window > s->window_seen)
		s->window_seen = window;
	if (s->connect && s->window_seen >= PROBED_WINDOW && (long long)n > window - PROBES)
		return window > PROBES ? (size_t)(window - PROBES) : withhold(s, n);
	deadline_clear(&s->probe);
	s->probe_ms = 0;
	return n;
}

size_t h2_stream_front(struct h2_stream *s, char **p)
{
	if (s->direct_n == 0)
		return h2_queue_front(&s->out, p);
	*p = s->direct;
	return s->direct_n < H2_CHUNK_BYTES ? s->direct_n : H2_CHUNK_BYTES;
}

static ssize_t on_data(nghttp2_session *session, int32_t id, uint8_t *buf ADIT_UNUSED, size_t most, uint32_t *flags,
	nghttp2_data_source *source ADIT_UNUSED, void *ctx ADIT_UNUSED)
{
	struct h2_stream *s = nghttp2_session_get_stream_user_data(session, id);
	char *p;
	size_t n = s ? h2_stream_front(s, &p) : 0;

	if (n > most)
		n = most;
	if (n > 0 && (n = within_window(s, n)) == 0)
		return NGHTTP2_ERR_DEFERRED;
	if (n > 0) {
		*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
		if (n == s->out.n && s->end_wanted && s->reply_trailers_n == 0)
			*flags |= NGHTTP2_DATA_FLAG_EOF;
		return (ssize_t)n;
	}
	if (!s || !s->end_wanted)
		return NGHTTP2_ERR_DEFERRED;
	*flags |= NGHTTP2_DATA_FLAG_EOF;
	if (s->reply_trailers_n > 0) {
		struct h2_fields f = { 0 };
		bool good = s->reply_trailers && h2_fields_make(&f, 0, s->reply_trailers, s->reply_trailers_n) &&
			    nghttp2_submit_trailer(session, id, f.nv, f.n) == 0;

		h2_fields_free(&f);
		if (!good)
			return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
		*flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
	}
	return 0;
}

void h2_stream_sent(struct h2_stream *s, size_t n)
{
	struct h2 *h = s->h;

	if (s->direct_n > 0) {
		s->direct += n;
		s->direct_n -= n;
		return; /* no news to who writes just now */
	}
	h2_queue_drop(&s->out, &h->spare, n);
	h->out_total -= n;
	if (s->out.n == 0) {
		s->drained = true;
		h2_news(s);
	}
}

static bool add_out(struct h2_stream *s, const void *data, size_t n)
{
	if (!h2_queue_add(&s->out, &s->h->spare, data, n))
		return false;
	s->h->out_total += n;
	return true;
}

/* --- answers --- */

/* Response HEADERS, with DATA behind them when `body`; else they are the end. */
static bool submit_response(struct h2_stream *s, const struct h2_fields *f, bool body)
{
	struct h2 *h = s->h;
	nghttp2_data_provider provider = { .source = { .ptr = NULL }, .read_callback = on_data };

	if (!s->open || h->session_failed ||
	    nghttp2_submit_response(h->session, s->id, f->nv, f->n, body ? &provider : NULL) != 0)
		return false;
	s->replied = true;
	h2_post_flush(h);
	return true;
}

static void op_forget(struct request *r)
{
	struct h2_stream *s = of_request(r);

	h2_text_wipe(&s->text);
	r->credentials = (struct slice){ 0 };
}

/* The text of an answer of our own, cut into fields and body. */
static bool respond(struct h2_stream *s, const struct response *response)
{
	char text[RESPONSE_MAX];
	size_t n = response_format_h1(response, true, s->request.method == HEAD_HEAD, text);
	char *fields = (char *)memchr(text, '\n', n) + 1;
	const char *end = memmem(fields - 2, n - (size_t)(fields - 2 - text), "\r\n\r\n", 4);
	const char *body = end + 4;
	size_t body_n = n - (size_t)(body - text);
	struct h2_fields f = { 0 };
	bool good = h2_fields_make(&f, response->status, fields, (size_t)(end + 2 - fields)) &&
		    (body_n == 0 || add_out(s, body, body_n));

	s->end_wanted = true;
	good = good && submit_response(s, &f, body_n > 0);
	h2_fields_free(&f);
	return good;
}

static void op_respond(struct request *r, const struct response *response)
{
	struct h2_stream *s = of_request(r);

	ADIT_ASSERT(s->held && !s->replied);
	unhold(s);
	h2_text_wipe(&s->text);
	if (s->live) { /* an exchange that got no reply */
		s->base.closing = true;
		s->base.handler = NULL;
		loop_unpost(s->h->loop, &s->base.wake);
		s->live = false;
	}
	drop_in(s);
	if (s->fault != REASON_OK && s->open) {
		let_go(s); /* nghttp2 has reset it already */
	} else if (s->open) {
		if (respond(s, response))
			linger(s);
		else
			detach(s, NGHTTP2_INTERNAL_ERROR);
	}
	settle(s);
}

static void op_end(struct request *r)
{
	struct h2_stream *s = of_request(r);

	unhold(s);
	settle(s);
}

static const struct stream_ops stream_ops;

static struct stream *begin_stream(struct h2_stream *s)
{
	struct h2 *h = s->h;

	h2_text_wipe(&s->text);
	stream_init(&s->base, &stream_ops, h->loop);
	s->live = true;
	if (h->client->logged_in)
		stream_ahead(h->stream, true);
	return &s->base;
}

static struct stream *op_accept(struct request *r)
{
	struct h2_stream *s = of_request(r);
	struct h2_fields f = { 0 };
	bool good = h2_fields_make(&f, 200, NULL, 0) && submit_response(s, &f, true);

	h2_fields_free(&f);
	if (good)
		return begin_stream(s);
	detach(s, NGHTTP2_INTERNAL_ERROR);
	return NULL;
}

static struct stream *op_exchange(struct request *r)
{
	struct h2_stream *s = of_request(r);

	return s->open ? begin_stream(s) : NULL;
}

/* Field lines of a forwarded message; the text is nghttp2's to change. */
static bool make_fields(struct h2_fields *f, int status, struct slice fields, char **text)
{
	*text = mem_strndup(fields.p ? fields.p : "", fields.n);
	return *text && h2_fields_make(f, status, *text, fields.n);
}

/* Heads pass no window: who brings more of them waits until these have left. */
static void count_heads(struct h2_stream *s, size_t n)
{
	s->heads += n;
	s->h->heads_total += n;
}

void h2_stream_heads_sent(struct h2_stream *s)
{
	if (s->heads == 0)
		return;
	s->h->heads_total -= s->heads;
	s->heads = 0;
	if (s->out.n == 0 && s->direct_n == 0) {
		s->drained = true;
		h2_news(s);
	}
}

static bool op_interim(struct request *r, int status, struct slice fields)
{
	struct h2_stream *s = of_request(r);
	struct h2 *h = s->h;
	struct h2_fields f = { 0 };
	char *text = NULL;
	bool good = s->open && !h->session_failed && make_fields(&f, status, fields, &text) &&
		    nghttp2_submit_headers(h->session, NGHTTP2_FLAG_NONE, s->id, NULL, f.nv, f.n, NULL) == 0;

	if (good)
		count_heads(s, fields.n + 1);
	h2_fields_free(&f);
	mem_free(text);
	h2_post_flush(h);
	return good;
}

static bool op_reply(struct request *r, int status, struct slice fields, struct framing framing)
{
	struct h2_stream *s = of_request(r);
	struct h2_fields f = { 0 };
	char *text = NULL, length[24];
	bool body = framing.kind != FRAMING_NONE && !(framing.kind == FRAMING_LENGTH && framing.length == 0), good;

	(void)snprintf(length, sizeof(length), "%llu", framing.length);
	good = make_fields(&f, status, fields, &text) &&
	       (framing.kind != FRAMING_LENGTH || h2_fields_add(&f, "content-length", length));
	s->end_wanted = !body;
	good = good && submit_response(s, &f, body);
	if (good)
		count_heads(s, fields.n + 1);
	h2_fields_free(&f);
	mem_free(text);
	return good;
}

static const struct request_ops request_ops = {
	.forget = op_forget,
	.respond = op_respond,
	.accept = op_accept,
	.end = op_end,
	.exchange = op_exchange,
	.interim = op_interim,
	.reply = op_reply,
};

/* --- as a struct stream --- */

static bool may_grow(const struct h2_stream *s, size_t by)
{
	const struct h2 *h = s->h;
	/* streams yet to come have a right to their first window */
	size_t reserved = h->streams_max > h->count ? (size_t)(h->streams_max - h->count) * H2_WINDOW_FIRST : 0;

	return s->window + by <= h->conf->http2.stream_window_bytes &&
	       h->windows + by + reserved <= h->conf->http2.window_bytes;
}

/* Growing: when the client sends half a window and more within a round trip, it is the window that holds it back. */
static void judge_window(struct h2_stream *s)
{
	struct h2 *h = s->h;
	unsigned long long now = loop_now_ms(h->loop), took = now - s->epoch_ms;
	unsigned rtt;
	bool filled;

	if (took == 0 || took < h->rtt_ms)
		return;
	rtt = stream_rtt_us(h->stream) / 1000;
	if (rtt < h->rtt_ms)
		rtt = h->rtt_ms; /* behind a balancer the kernel sees the balancer only */
	if (rtt == 0)
		rtt = 1;
	if (took < rtt)
		return;
	filled = (unsigned long long)s->epoch_bytes * rtt >= s->window / 2 * took;
	s->epoch_bytes = 0;
	s->epoch_ms = now;
	if (!filled || !may_grow(s, s->window))
		return;
	if (nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, s->id, (int32_t)(2 * s->window)) != 0) {
		h->session_failed = true; /* it may count on what the client was not told */
		return;
	}
	h->windows += s->window;
	s->window *= 2;
}

void h2_stream_credit(struct h2_stream *s)
{
	struct h2 *h = s->h;
	size_t n = s->lent;
	int32_t received, owed;

	s->lent = 0;
	if (n == 0 || !s->open || s->client_ended || h->session_failed)
		return;
	s->epoch_bytes += n;
	judge_window(s);
	h2_post_flush(h); /* tells, or finds that there is no memory */
	if (h->session_failed)
		return;
	/* all that has come and is not here any more, padding too */
	received = nghttp2_session_get_stream_effective_recv_data_length(h->session, s->id);
	owed = received - (int32_t)s->in.n;
	if (owed > 0 && (size_t)owed >= s->window / 8 &&
	    nghttp2_submit_window_update(h->session, NGHTTP2_FLAG_NONE, s->id, owed) != 0)
		h->session_failed = true;
}

/* They have left for the target, or wait there: the client may send as many. */
static void lend(struct h2_stream *s, size_t n)
{
	struct h2 *h = s->h;

	h->in_total -= n;
	s->lent = n;
	if (!s->is_lent) {
		TAILQ_INSERT_TAIL(&h->lent, s, lent_entry);
		s->is_lent = true;
	}
	h2_post_flush(h);
	if (s->in.n == 0 && s->client_ended)
		stream_more(&s->base); /* the end behind them is not announced */
}

static unsigned op_peek(struct stream *base, struct iovec *v, unsigned most)
{
	struct h2_stream *s = of(base);

	h2_stream_credit(s); /* who reads again has sent what he had */
	return h2_queue_pieces(&s->in, v, most);
}

static void op_skip(struct stream *base, size_t n)
{
	struct h2_stream *s = of(base);

	h2_queue_drop(&s->in, &s->h->spare, n);
	lend(s, n);
}

static enum stream_io op_read(struct stream *base, void *buf, size_t size, size_t *n)
{
	struct h2_stream *s = of(base);

	h2_stream_credit(s);
	*n = h2_queue_take(&s->in, &s->h->spare, buf, size);
	if (*n > 0) {
		lend(s, *n);
		return STREAM_IO_OK;
	}
	if (s->client_ended) {
		base->eof = true;
		return STREAM_IO_EOF;
	}
	if (s->open)
		return STREAM_IO_AGAIN;
	base->fault = STREAM_FAULT_RESET;
	return STREAM_IO_ERROR;
}

static bool op_write(struct stream *base, const void *data, size_t n)
{
	struct h2_stream *s = of(base);

	if (!s->open) {
		base->fault = STREAM_FAULT_RESET;
		return false;
	}
	if (!add_out(s, data, n)) {
		base->fault = STREAM_FAULT_MEMORY;
		return false;
	}
	resume(s);
	return true;
}

/* What fills records gains nothing by waiting for the turn's flush, and the writer need not pause meanwhile. The rest
 * is queued. */
static bool op_write_over(struct stream *base, char *data, size_t n)
{
	struct h2_stream *s = of(base);

	if (n < H2_CHUNK_BYTES || s->out.n > 0 || !s->open || !s->replied)
		return op_write(base, data, n);
	s->direct = data;
	s->direct_n = n;
	resume(s);
	h2_write_through(s->h);
	data = s->direct;
	n = s->direct_n;
	s->direct_n = 0;
	return n == 0 || op_write(base, data, n);
}

/* No more DATA after what is queued. What the handler wants behind it may go before it has left. */
static void say_end(struct h2_stream *s)
{
	struct slice t = s->request.reply_trailers;

	if (s->end_wanted)
		return;
	s->end_wanted = true;
	if (t.n > 0)
		s->reply_trailers = mem_strndup(t.p, t.n);
	s->reply_trailers_n = t.n;
}

static size_t op_queued(const struct stream *base)
{
	const struct h2_stream *s = of(base);

	return s->out.n + s->heads;
}

/* Who is told "none" is told when there is some. */
static size_t op_room(struct stream *base)
{
	struct h2_stream *s = of(base);
	struct h2 *h = s->h;
	long long window, connection, share = H2_OUT_MAX / (h->count > 0 ? h->count : 1);

	if (!s->open || h->session_failed)
		return SIZE_MAX; /* the write tells */
	window = nghttp2_session_get_stream_remote_window_size(h->session, s->id);
	connection = nghttp2_session_get_remote_window_size(h->session);
	if (window > connection)
		window = connection;
	window -= (long long)s->out.n;
	if (!s->replied && s->out.n == 0)
		return H2_HEAD_ROOM; /* heads need no window, and behind one is read only what is asked for */
	if (share < H2_SHARE_MIN)
		share = H2_SHARE_MIN;
	if (window > 0 && h->out_total < H2_OUT_MAX && stream_queued(h->stream) == 0) {
		/* nothing waits: a turn's worth leaves at once. Whole frames, lest each turn ends with a crumb */
		if (h->out_total == 0 && share < H2_TURN_BYTES)
			share = H2_TURN_BYTES;
		if (window > share)
			window = share;
		if (window > H2_TURN_BYTES)
			window = H2_TURN_BYTES;
		if (window > (long long)h->buffer_bytes) /* the relay's are of the same size */
			window = (long long)h->buffer_bytes;
		if (window > H2_CHUNK_BYTES)
			window -= window % H2_CHUNK_BYTES;
		return (size_t)window;
	}
	if (!s->is_hungry) {
		TAILQ_INSERT_TAIL(&h->hungry, s, hungry_entry);
		h->hungry_count++;
		s->is_hungry = true;
	}
	return 0;
}

static void op_finish(struct stream *base)
{
	struct h2_stream *s = of(base);

	if (s->end_sent) {
		s->drained = true;
		h2_news(s);
	}
	say_end(s);
	resume(s);
}

static void op_watch(struct stream *base, bool on)
{
	struct h2_stream *s = of(base);

	if (on && s->lent > 0)
		h2_post_flush(s->h);
}

static bool op_pending(const struct stream *base)
{
	const struct h2_stream *s = of(base);

	return s->in.n > 0 || s->client_ended || !s->open;
}

/* How the client is to see a message or tunnel that broke off (RFC 9113 8.5). */
static uint32_t broken_error(const struct h2_stream *s)
{
	return s->connect ? NGHTTP2_CONNECT_ERROR : NGHTTP2_INTERNAL_ERROR;
}

static void op_close(struct stream *base, enum stream_close how)
{
	struct h2_stream *s = of(base);

	s->live = false;
	drop_in(s);
	if (how == STREAM_CLOSE_ABORT || !s->replied) {
		detach(s, how == STREAM_CLOSE_ABORT ? NGHTTP2_CANCEL : broken_error(s));
	} else if (how == STREAM_CLOSE_TRUNCATE) {
		s->last_error = broken_error(s);
		s->end_wanted = false; /* it may have been said, but has not left */
		if (s->out.n == 0)
			detach(s, s->last_error);
		else
			linger(s);
	} else if (s->open) {
		say_end(s);
		if (s->end_sent)
			h2_news(s);
		else
			resume(s);
		linger(s);
	}
	settle(s);
}

static const struct stream_ops stream_ops = {
	.read = op_read,
	.peek = op_peek,
	.skip = op_skip,
	.write = op_write,
	.write_over = op_write_over,
	.queued = op_queued,
	.room = op_room,
	.finish = op_finish,
	.watch = op_watch,
	.pending = op_pending,
	.close = op_close,
};

/* --- the request --- */

static void begin(struct h2_stream *s)
{
	struct h2 *h = s->h;
	struct request *r = &s->request;
	struct head_limits limits = {
		.fields = h->conf->http.fields,
		.request_line_bytes = h->conf->http.request_line_bytes,
	};
	struct head_parser parser;
	struct head head = { .method = HEAD_OTHER };
	enum reason fault = s->fault, why = REASON_OK;
	bool good = !s->head.no_memory && h2_head_request(&s->head, s->body, &s->text);
	void *object;

	s->fresh = false;
	if (s->head.too_large)
		fault = REASON_HEAD_TOO_LARGE;
	h2_head_wipe(&s->head);
	if (good) {
		limits.head_bytes = s->text.n + 1;
		head_init(&parser);
		if (head_parse(&parser, s->text.p, s->text.n, &limits, &head, &why) == HEAD_PARTIAL)
			why = REASON_BAD_REQUEST_LINE;
	}
	if (!h->client->logged_in && h->held_bytes + s->text.n > H2_STRANGER_BYTES) {
		h2_text_wipe(&s->text);
		detach(s, NGHTTP2_REFUSED_STREAM);
		return;
	}
	*r = (struct request){ .ops = &request_ops, .client = h->client, .conf = h->conf };
	if (!good || !request_fill(r, &head, fault != REASON_OK ? fault : why, "h2")) {
		stats_reason(REASON_NO_MEMORY);
		detach(s, NGHTTP2_INTERNAL_ERROR);
		return;
	}
	s->held = true;
	s->held_bytes = s->text.n;
	h->held_bytes += s->text.n;
	/* The handler may answer inside this call: then there is no object to remember. */
	object = h->handler.begin(h->handler_ctx, r);
	if (s->held)
		s->object = object;
}

/* The trailers' fields that may pass. */
static void take_trailers(struct h2_stream *s)
{
	struct h2_text *t = &s->tail.fields;
	char *kept = t->n > 0 && !s->tail.too_large ? mem_alloc(t->n + 1) : NULL;

	s->in_trailers = false;
	if (kept) {
		size_t n = forward_trailers((struct slice){ t->p, t->n }, kept, t->n + 1);

		mem_free(s->trailers);
		s->trailers = kept;
		s->request.trailers = (struct slice){ kept, n };
	}
	h2_head_wipe(&s->tail);
}

void h2_stream_gone(struct h2_stream *s, enum reason reason)
{
	void *object = s->object;

	s->fresh = false;
	s->object = NULL;
	if (s->held && object)
		s->h->handler.gone(object, reason);
	unhold(s); /* a request that was not accepted ends with `gone` */
	ADIT_ASSERT(!s->live);
	if (s->open)
		detach(s, NGHTTP2_CANCEL);
	settle(s);
}

static void tell_drained(struct h2_stream *s)
{
	s->drained = false;
	if (s->last_error && s->out.n == 0) {
		detach(s, s->last_error);
		return;
	}
	if (!s->live || op_queued(&s->base) > 0 || (s->base.finishing && !s->end_sent))
		return;
	if (s->base.finishing || op_room(&s->base) > 0)
		stream_notify_drained(&s->base);
}

void h2_stream_tell(struct h2_stream *s)
{
	if (s->fresh && !s->open && s->fault == REASON_OK) {
		s->fresh = false; /* thrown away before anybody looked at it */
		stats_reason(REASON_CLIENT_GONE);
	}
	if (s->fresh)
		begin(s);
	if (s->client_ended && s->in_trailers)
		take_trailers(s);
	if (!s->open && s->broken && (s->held || s->live)) {
		h2_stream_gone(s, s->fault == REASON_OK ? REASON_CLIENT_RESET : s->fault);
		return;
	}
	if (s->live && (s->in.n > 0 || s->client_ended))
		stream_notify_readable(&s->base);
	if (s->withheld) {
		s->withheld = false;
		resume(s);
	}
	if (s->drained || s->end_sent)
		tell_drained(s);
	/* RFC 9113 8.1: the answer is complete, and what else the client has to say does not matter */
	if (s->open && s->end_sent && !s->live && !s->held)
		detach(s, NGHTTP2_NO_ERROR);
	settle(s);
}

void h2_stream_feed(struct h2 *h)
{
	unsigned most = h->out_total < H2_OUT_MAX ? (unsigned)((H2_OUT_MAX - h->out_total) / H2_SHARE_MIN) + 1 : 0;
	unsigned told = 0, left;

	if (stream_queued(h->stream) > 0)
		return;
	for (left = h->hungry_count; left > 0 && told < most; left--) {
		struct h2_stream *s = TAILQ_FIRST(&h->hungry);

		sate(s);
		/* who has something queued is told when that has left */
		if (s->live && op_queued(&s->base) == 0 && !s->base.finishing && op_room(&s->base) > 0) {
			told++;
			stream_notify_drained(&s->base);
		}
	}
	if (left > 0 && told > 0)
		h2_post_flush(h); /* those told may have nothing to send, and then nothing else would bring us back */
}

struct h2_stream *h2_stream_new(struct h2 *h, int32_t id)
{
	struct h2_stream *s = mem_alloc(sizeof(*s));

	if (!s)
		return NULL;
	s->magic = H2_STREAM_MAGIC;
	s->h = h;
	s->id = id;
	s->open = true;
	h2_queue_init(&s->in);
	h2_queue_init(&s->out);
	deadline_init(&s->linger, h->loop, on_linger, s);
	deadline_init(&s->probe, h->loop, on_probe, s);
	s->epoch_ms = loop_now_ms(h->loop);
	s->window = H2_WINDOW_FIRST;
	h->windows += s->window;
	TAILQ_INSERT_TAIL(&h->streams, s, entry);
	h->count++;
	h->used = true;
	return s;
}
