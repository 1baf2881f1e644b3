/* One stream: from its birth to its grave, and the struct stream that a tunnel or an exchange has of it. */
#include "http/h2_priv.h"

#define H2_STREAM_MAGIC OBJ_MAGIC('h', '2', 's', 't')

enum { LINGER_MOST_MS = 30000 }; /* for an answer that waits behind others' bytes, beyond deadlines.linger */

struct h2_stream *h2_stream_of(const struct stream *s)
{
	return OBJ_OF(s, struct h2_stream, base);
}

/* --- ends --- */

static void forget_window(struct h2_stream *s)
{
	s->h->windows -= s->window;
	s->window = 0;
}

void h2_stream_dies(struct h2_stream *s)
{
	if (s->dying)
		return;
	s->dying = true;
	s->h->dying++;
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

void h2_stream_drop_in(struct h2_stream *s)
{
	s->h->in_total -= s->in.n;
	h2_queue_clear(&s->in, &s->h->spare);
}

void h2_stream_unhold(struct h2_stream *s)
{
	s->h->held_bytes -= s->held_bytes;
	s->held_bytes = 0;
	s->held = false;
	s->object = NULL;
}

void h2_stream_settle(struct h2_stream *s)
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
	h2_stream_drop_in(s);
	h2_head_wipe(&s->head);
	h2_head_wipe(&s->tail);
	h2_text_wipe(&s->text);
	TAILQ_REMOVE(&h->streams, s, entry);
	h->count--;
	h->dying -= s->dying;
	loop_bury(h->loop, &s->grave, on_grave, s);
	h2_settle(h);
}

void h2_stream_let_go(struct h2_stream *s)
{
	h2_stream_dies(s);
	s->open = false;
	forget_window(s);
	deadline_clear(&s->linger);
	deadline_clear(&s->probe);
	if (!s->h->session_failed)
		(void)nghttp2_session_set_stream_user_data(s->h->session, s->id, NULL);
}

void h2_stream_detach(struct h2_stream *s, uint32_t error)
{
	struct h2 *h = s->h;

	if (!s->open)
		return;
	h2_stream_let_go(s);
	if (!h->session_failed && nghttp2_submit_rst_stream(h->session, NGHTTP2_FLAG_NONE, s->id, error) != 0)
		h->session_failed = true;
	h2_post_flush(h);
}

static void on_linger(void *ctx)
{
	struct h2_stream *s;
	struct h2 *h;

	s = ctx;
	ADIT_ASSERT(s->magic == H2_STREAM_MAGIC);
	h = s->h;
	/* behind other streams' bytes: the connection is slow */
	if (stream_queued(h->stream) > 0 && loop_now_ms(h->loop) < s->linger_until_ms &&
	    deadline_set(&s->linger, h->conf->deadlines.linger))
		return;
	h2_stream_detach(s, s->last_error ? s->last_error : NGHTTP2_CANCEL);
	h2_stream_settle(s);
}

void h2_stream_linger(struct h2_stream *s)
{
	s->linger_until_ms = loop_now_ms(s->h->loop) + LINGER_MOST_MS;
	if (!deadline_set(&s->linger, s->h->conf->deadlines.linger))
		h2_stream_detach(s, NGHTTP2_INTERNAL_ERROR);
}

void h2_stream_resume(struct h2_stream *s)
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

size_t h2_stream_front(struct h2_stream *s, char **p)
{
	if (s->direct_n == 0)
		return h2_queue_front(&s->out, p);
	*p = s->direct;
	return s->direct_n < H2_CHUNK_BYTES ? s->direct_n : H2_CHUNK_BYTES;
}

ssize_t h2_stream_data(nghttp2_session *session, int32_t id, uint8_t *buf ADIT_UNUSED, size_t most, uint32_t *flags,
	nghttp2_data_source *source ADIT_UNUSED, void *ctx ADIT_UNUSED)
{
	struct h2_stream *s = nghttp2_session_get_stream_user_data(session, id);
	char *p;
	size_t n = s ? h2_stream_front(s, &p) : 0;

	if (n > most)
		n = most;
	if (n > 0 && (n = h2_window_allows(s, n)) == 0)
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

bool h2_stream_add_out(struct h2_stream *s, const void *data, size_t n)
{
	if (!h2_queue_add(&s->out, &s->h->spare, data, n))
		return false;
	s->h->out_total += n;
	return true;
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

/* --- as a struct stream --- */

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
	struct h2_stream *s = h2_stream_of(base);

	h2_window_credit(s); /* who reads again has sent what he had */
	return h2_queue_pieces(&s->in, v, most);
}

static void op_skip(struct stream *base, size_t n)
{
	struct h2_stream *s = h2_stream_of(base);

	h2_queue_drop(&s->in, &s->h->spare, n);
	lend(s, n);
}

/* Why nothing comes or goes any more. */
static enum stream_fault broken_by(const struct h2_stream *s)
{
	return s->fault == REASON_NO_MEMORY ? STREAM_FAULT_MEMORY : STREAM_FAULT_RESET;
}

static enum stream_io op_read(struct stream *base, void *buf, size_t size, size_t *n)
{
	struct h2_stream *s = h2_stream_of(base);

	h2_window_credit(s);
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
	base->fault = broken_by(s);
	return STREAM_IO_ERROR;
}

static bool op_write(struct stream *base, const void *data, size_t n)
{
	struct h2_stream *s = h2_stream_of(base);

	if (!s->open) {
		base->fault = broken_by(s);
		return false;
	}
	if (!h2_stream_add_out(s, data, n)) {
		base->fault = STREAM_FAULT_MEMORY;
		return false;
	}
	h2_stream_resume(s);
	return true;
}

/* What fills records gains nothing by waiting for the turn's flush, and the writer need not pause meanwhile. The rest
 * is queued. */
static bool op_write_over(struct stream *base, char *data, size_t n)
{
	struct h2_stream *s = h2_stream_of(base);

	if (n < H2_CHUNK_BYTES || s->out.n > 0 || !s->open || !s->replied)
		return op_write(base, data, n);
	s->direct = data;
	s->direct_n = n;
	h2_stream_resume(s);
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
	const struct h2_stream *s = h2_stream_of(base);

	return s->out.n + s->heads;
}

static void op_finish(struct stream *base)
{
	struct h2_stream *s = h2_stream_of(base);

	if (s->end_sent) {
		s->drained = true;
		h2_news(s);
	}
	say_end(s);
	h2_stream_resume(s);
}

static void op_watch(struct stream *base, bool on)
{
	struct h2_stream *s = h2_stream_of(base);

	if (on && s->lent > 0)
		h2_post_flush(s->h);
}

static bool op_pending(const struct stream *base)
{
	const struct h2_stream *s = h2_stream_of(base);

	return s->in.n > 0 || s->client_ended || !s->open;
}

/* How the client is to see a message or tunnel that broke off (RFC 9113 8.5). */
static uint32_t broken_error(const struct h2_stream *s)
{
	return s->connect ? NGHTTP2_CONNECT_ERROR : NGHTTP2_INTERNAL_ERROR;
}

static void op_close(struct stream *base, enum stream_close how)
{
	struct h2_stream *s = h2_stream_of(base);

	s->live = false;
	h2_stream_drop_in(s);
	if (how == STREAM_CLOSE_ABORT || !s->replied) {
		h2_stream_detach(s, how == STREAM_CLOSE_ABORT ? NGHTTP2_CANCEL : broken_error(s));
	} else if (how == STREAM_CLOSE_TRUNCATE) {
		s->last_error = broken_error(s);
		s->end_wanted = false; /* it may have been said, but has not left */
		if (s->out.n == 0)
			h2_stream_detach(s, s->last_error);
		else
			h2_stream_linger(s);
	} else if (s->open) {
		say_end(s);
		if (s->end_sent)
			h2_news(s);
		else
			h2_stream_resume(s);
		h2_stream_linger(s);
	}
	h2_stream_settle(s);
}

static const struct stream_ops stream_ops = {
	.read = op_read,
	.peek = op_peek,
	.skip = op_skip,
	.write = op_write,
	.write_over = op_write_over,
	.queued = op_queued,
	.room = h2_window_room,
	.finish = op_finish,
	.watch = op_watch,
	.pending = op_pending,
	.close = op_close,
};

struct stream *h2_stream_carry(struct h2_stream *s)
{
	struct h2 *h = s->h;

	h2_text_wipe(&s->text);
	stream_init(&s->base, &stream_ops, h->loop);
	s->live = true;
	if (h->client->logged_in)
		stream_ahead(h->stream, true);
	return &s->base;
}

void h2_stream_gone(struct h2_stream *s, enum reason reason)
{
	void *object = s->object;

	s->fresh = false;
	s->object = NULL;
	if (s->held && object)
		s->h->handler.gone(object, reason);
	h2_stream_unhold(s); /* a request that was not accepted ends with `gone` */
	ADIT_ASSERT(!s->live);
	if (s->open)
		h2_stream_detach(s, NGHTTP2_CANCEL);
	h2_stream_settle(s);
}

static void tell_drained(struct h2_stream *s)
{
	s->drained = false;
	if (s->last_error && s->out.n == 0) {
		h2_stream_detach(s, s->last_error);
		return;
	}
	if (!s->live || op_queued(&s->base) > 0 || (s->base.finishing && !s->end_sent))
		return;
	if (s->base.finishing || h2_window_room(&s->base) > 0)
		stream_notify_drained(&s->base);
}

void h2_stream_tell(struct h2_stream *s)
{
	if (s->fresh && !s->open && s->fault == REASON_OK) {
		s->fresh = false; /* thrown away before anybody looked at it */
		stats_reason(REASON_CLIENT_GONE);
	}
	if (s->fresh)
		h2_request_begin(s);
	if (s->client_ended && s->in_trailers)
		h2_request_trailers(s);
	if (!s->open && s->broken && (s->held || s->live)) {
		h2_stream_gone(s, s->fault == REASON_OK ? REASON_CLIENT_RESET : s->fault);
		return;
	}
	if (s->live && (s->in.n > 0 || s->client_ended))
		stream_notify_readable(&s->base);
	if (s->withheld) {
		s->withheld = false;
		h2_stream_resume(s);
	}
	if (s->drained || s->end_sent)
		tell_drained(s);
	/* RFC 9113 8.1: the answer is complete, and what else the client has to say does not matter */
	if (s->open && s->end_sent && !s->live && !s->held)
		h2_stream_detach(s, NGHTTP2_NO_ERROR);
	h2_stream_settle(s);
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
		if (s->live && op_queued(&s->base) == 0 && !s->base.finishing && h2_window_room(&s->base) > 0) {
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
	deadline_init(&s->probe, h->loop, h2_window_probe, s);
	s->epoch_ms = loop_now_ms(h->loop);
	s->window = H2_WINDOW_FIRST;
	h->windows += s->window;
	TAILQ_INSERT_TAIL(&h->streams, s, entry);
	h->count++;
	h->used = true;
	return s;
}
