/* What nghttp2 calls: frames become facts about streams, and news of them. Nothing here runs a handler, writes to the
 * connection or frees a stream. */
#include "http/h2_priv.h"

/* --- memory that is wiped, for field sections hold credentials; and listed, see h2_session_drop --- */

struct h2_block {
	TAILQ_ENTRY(h2_block) entry;
	size_t size;
	_Alignas(max_align_t) char bytes[];
};

static struct h2_block *block_of(void *p)
{
	return (struct h2_block *)((uintptr_t)p - offsetof(struct h2_block, bytes));
}

static void *on_malloc(size_t size, void *ctx)
{
	struct h2 *h = ctx;
	struct h2_block *b = size > SIZE_MAX - sizeof(*b) ? NULL : mem_alloc(sizeof(*b) + size);

	if (!b)
		return NULL;
	b->size = size;
	TAILQ_INSERT_HEAD(&h->blocks, b, entry);
	return b->bytes;
}

static void on_free(void *p, void *ctx)
{
	struct h2 *h = ctx;

	if (!p)
		return;
	TAILQ_REMOVE(&h->blocks, block_of(p), entry);
	mem_burn(p, block_of(p)->size);
	mem_free(block_of(p));
}

static void *on_calloc(size_t count, size_t size, void *ctx)
{
	if (size > 0 && count > SIZE_MAX / size)
		return NULL;
	return on_malloc(count * size, ctx); /* zeroed */
}

static void *on_realloc(void *p, size_t size, void *ctx)
{
	size_t old = p ? block_of(p)->size : 0;
	void *fresh = on_malloc(size, ctx);

	if (!fresh)
		return NULL;
	if (old > 0)
		memcpy(fresh, p, old < size ? old : size);
	on_free(p, ctx);
	return fresh;
}

/* Without memory nghttp2 may have lost count of what it owns (1.52 frees a response's DATA twice then): its blocks are
 * taken away from it. */
void h2_session_drop(struct h2 *h)
{
	struct h2_block *b;

	if (!h->session_failed)
		nghttp2_session_del(h->session);
	h->session = NULL;
	while ((b = TAILQ_FIRST(&h->blocks)))
		on_free(b->bytes, h);
}

static struct h2_stream *stream_at(nghttp2_session *session, int32_t id)
{
	return nghttp2_session_get_stream_user_data(session, id);
}

/* --- frames in --- */

/* Bytes of it are dropped: what comes behind them, its end above all, must not be taken for the rest. */
static int lose(struct h2_stream *s, uint32_t error)
{
	s->lossy = true;
	return nghttp2_submit_rst_stream(s->h->session, NGHTTP2_FLAG_NONE, s->id, error);
}

static int on_begin_frame(nghttp2_session *session ADIT_UNUSED, const nghttp2_frame_hd *hd, void *ctx)
{
	struct h2 *h = ctx;

	switch (hd->type) {
	case NGHTTP2_CONTINUATION:
		h2_spend(h, H2_COST_EMPTY);
		break;
	case NGHTTP2_HEADERS:
	case NGHTTP2_DATA:
	case NGHTTP2_RST_STREAM:
	case NGHTTP2_SETTINGS:
	case NGHTTP2_PING:
		break; /* judged when they are complete */
	default:
		h2_spend(h, H2_COST_OTHER);
		break;
	}
	return 0;
}

/* Every stream gets the same share, whatever the client signals: a browser's chain of dependencies among pages would
 * starve all tunnels but one. */
static int level(nghttp2_session *session, int32_t id)
{
	const nghttp2_extpri share = { .urgency = NGHTTP2_EXTPRI_DEFAULT_URGENCY, .inc = 1 };

	return nghttp2_session_change_extpri_stream_priority(session, id, &share, 1);
}

/* A field section has to come in one piece: nothing else can be sent meanwhile. */
static bool head_begins(struct h2 *h, int32_t id)
{
	h->head_id = id;
	return h->head.at_ms != 0 || deadline_set(&h->head, h->conf->deadlines.head);
}

static void head_ends(struct h2 *h, int32_t id)
{
	if (h->head_id != id)
		return;
	h->head_id = 0;
	deadline_clear(&h->head);
}

static int on_begin_headers(nghttp2_session *session, const nghttp2_frame *frame, void *ctx)
{
	struct h2 *h = ctx;
	struct h2_stream *s;

	if (frame->hd.type != NGHTTP2_HEADERS)
		return 0;
	if (!head_begins(h, frame->hd.stream_id))
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	if (frame->headers.cat != NGHTTP2_HCAT_REQUEST) {
		s = stream_at(session, frame->hd.stream_id);
		if (s && s->connect) /* RFC 9113 8.5: DATA only */
			return lose(s, NGHTTP2_PROTOCOL_ERROR);
		if (s)
			s->in_trailers = true;
		return 0;
	}
	/* nghttp2 counts those that are open on the wire; a target may still have to take the bytes of others */
	if (h->count - h->dying >= h->streams_max) {
		head_ends(h, frame->hd.stream_id);
		return nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id, NGHTTP2_REFUSED_STREAM);
	}
	s = h2_stream_new(h, frame->hd.stream_id);
	if (!s) {
		head_ends(h, frame->hd.stream_id);
		h2_settle(h);
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	if (nghttp2_session_set_stream_user_data(session, s->id, s) != 0 || level(session, s->id) != 0) {
		(void)nghttp2_session_set_stream_user_data(session, s->id, NULL);
		s->open = false;
		h2_news(s);
		head_ends(h, s->id);
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	}
	return 0;
}

static int on_header(nghttp2_session *session, const nghttp2_frame *frame, const uint8_t *name, size_t name_n,
	const uint8_t *value, size_t value_n, uint8_t flags ADIT_UNUSED, void *ctx)
{
	struct h2 *h = ctx;
	struct h2_stream *s = stream_at(session, frame->hd.stream_id);

	if (s && frame->hd.type == NGHTTP2_HEADERS)
		h2_head_add(s->in_trailers ? &s->tail : &s->head, (struct slice){ (const char *)name, name_n },
		    (struct slice){ (const char *)value, value_n }, h->conf->http2.header_list_bytes);
	return 0;
}

/* A field that is not well-formed makes the message malformed (RFC 9113 8.2.1); nghttp2 would pass over it. */
static int on_invalid_header(nghttp2_session *session ADIT_UNUSED, const nghttp2_frame *frame ADIT_UNUSED,
	const uint8_t *name ADIT_UNUSED, size_t name_n ADIT_UNUSED, const uint8_t *value ADIT_UNUSED,
	size_t value_n ADIT_UNUSED, uint8_t flags ADIT_UNUSED, void *ctx ADIT_UNUSED)
{
	return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
}

static void headers_complete(struct h2 *h, struct h2_stream *s, const nghttp2_frame *frame)
{
	head_ends(h, frame->hd.stream_id);
	if (!s)
		return;
	s->client_ended = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0 && !s->lossy;
	if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
		s->fresh = true;
		s->body = !s->client_ended;
		s->connect = !s->head.scheme.p;
	}
	h2_news(s);
}

static void acknowledged(struct h2 *h)
{
	unsigned long long rtt = loop_now_ms(h->loop) - h->asked_ms;

	if (h->rtt_asked && rtt < h->conf->deadlines.head)
		h->rtt_ms = (unsigned)rtt;
	h->rtt_asked = false;
}

static int on_frame_recv(nghttp2_session *session, const nghttp2_frame *frame, void *ctx)
{
	struct h2 *h = ctx;
	struct h2_stream *s = frame->hd.stream_id > 0 ? stream_at(session, frame->hd.stream_id) : NULL;
	bool ack = (frame->hd.flags & NGHTTP2_FLAG_ACK) != 0;

	switch (frame->hd.type) {
	case NGHTTP2_DATA:
		if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) {
			if (frame->hd.length == frame->data.padlen)
				h2_spend(h, H2_COST_EMPTY);
		} else if (s && !s->lossy) {
			s->client_ended = true;
			h2_news(s);
		}
		break;
	case NGHTTP2_HEADERS:
		headers_complete(h, s, frame);
		break;
	case NGHTTP2_RST_STREAM:
		/* to reset a tunnel that had its 200 is a way to end it; all else was asked for in vain */
		if (!s || !s->live || !s->replied)
			h2_spend(h, H2_COST_RESET);
		break;
	case NGHTTP2_WINDOW_UPDATE:
		if (s && s->withheld)
			h2_news(s);
		break;
	case NGHTTP2_SETTINGS:
	case NGHTTP2_PING:
		if (ack && h->rtt_asked)
			acknowledged(h);
		else
			h2_spend(h, frame->hd.type == NGHTTP2_PING ? H2_COST_PING : H2_COST_SETTINGS);
		break;
	default:
		break;
	}
	return 0;
}

static int on_invalid_frame(nghttp2_session *session, const nghttp2_frame *frame, int error ADIT_UNUSED, void *ctx)
{
	struct h2 *h = ctx;
	struct h2_stream *s = frame->hd.stream_id > 0 ? stream_at(session, frame->hd.stream_id) : NULL;

	h2_spend(h, H2_COST_FAULT); /* now: the answer may be held up */
	if (frame->hd.type == NGHTTP2_HEADERS)
		head_ends(h, frame->hd.stream_id);
	if (s && frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
		s->fault = REASON_H2_PROTOCOL; /* for the record; nghttp2 resets the stream */
		s->fresh = true;
		h2_news(s);
	}
	return 0;
}

/* What was read to where it can stay is not copied, unless the chunk would be more than twice as large. */
static bool take_data(struct h2 *h, struct h2_stream *s, const uint8_t *data, size_t n)
{
	struct h2_chunk *c = h->landing;

	if (!c || (const char *)data != c->bytes || n < c->size / 2)
		return h2_queue_add(&s->in, &h->spare, data, n);
	h->landing = NULL;
	h2_queue_adopt(&s->in, c, n);
	return true;
}

static int on_data_chunk(nghttp2_session *session, uint8_t flags ADIT_UNUSED, int32_t id, const uint8_t *data, size_t n,
	void *ctx)
{
	struct h2 *h = ctx;
	struct h2_stream *s = stream_at(session, id);

	h2_guard_data(&h->guard, n);
	/* The connection's window is there for nghttp2's sake: streams have theirs, and the sum of these is bounded. */
	if (nghttp2_session_consume_connection(session, n) != 0)
		return NGHTTP2_ERR_CALLBACK_FAILURE;
	if (!s || s->lossy || (s->end_wanted && !s->live))
		return 0; /* behind our answer they mean nothing */
	/* What comes before the answer waits; strangers get little room for that. */
	if (!h->client->logged_in && h->in_total + n > H2_STRANGER_BYTES)
		return lose(s, NGHTTP2_REFUSED_STREAM); /* it may come again */
	if (!take_data(h, s, data, n))
		return lose(s, NGHTTP2_INTERNAL_ERROR);
	h->in_total += n;
	h2_news(s);
	return 0;
}

static int on_stream_close(nghttp2_session *session, int32_t id, uint32_t error, void *ctx)
{
	struct h2_stream *s = stream_at(session, id);

	head_ends(ctx, id);
	if (!s)
		return 0;
	s->open = false;
	s->broken = error != NGHTTP2_NO_ERROR || !s->client_ended || !s->end_sent;
	if (s->broken)
		h2_stream_dies(s);
	h2_news(s);
	return 0;
}

/* --- frames out --- */

static bool is_clients_fault(uint32_t error)
{
	return error != NGHTTP2_NO_ERROR && error != NGHTTP2_CANCEL && error != NGHTTP2_CONNECT_ERROR &&
	       error != NGHTTP2_INTERNAL_ERROR;
}

/* Our RST_STREAM of a stream that we still have: nghttp2's finding, or bytes were lost. For the record. */
static void note_fault(struct h2_stream *s, uint32_t error)
{
	if (s->fault != REASON_OK || error == NGHTTP2_REFUSED_STREAM)
		return;
	s->fault = is_clients_fault(error) ? REASON_H2_PROTOCOL : REASON_NO_MEMORY;
	if (s->live)
		s->request.fault = s->fault;
}

static int on_frame_send(nghttp2_session *session, const nghttp2_frame *frame, void *ctx)
{
	struct h2 *h = ctx;
	struct h2_stream *s;

	if (frame->hd.type == NGHTTP2_RST_STREAM) {
		s = stream_at(session, frame->hd.stream_id);
		if (s)
			note_fault(s, frame->rst_stream.error_code);
		if (is_clients_fault(frame->rst_stream.error_code))
			h2_spend(h, H2_COST_FAULT);
	}
	if (frame->hd.type == NGHTTP2_GOAWAY && frame->goaway.error_code != NGHTTP2_NO_ERROR)
		h->faulty = true;
	if (frame->hd.type != NGHTTP2_DATA && frame->hd.type != NGHTTP2_HEADERS)
		return 0;
	s = stream_at(session, frame->hd.stream_id);
	if (s && frame->hd.type == NGHTTP2_HEADERS)
		h2_stream_heads_sent(s);
	if (s && (frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) {
		s->end_sent = true;
		h2_news(s);
	}
	return 0;
}

/* A head that cannot go out must not be waited for. */
static int on_frame_not_send(nghttp2_session *session, const nghttp2_frame *frame, int error ADIT_UNUSED,
	void *ctx ADIT_UNUSED)
{
	struct h2_stream *s = frame->hd.type == NGHTTP2_HEADERS ? stream_at(session, frame->hd.stream_id) : NULL;

	return s ? lose(s, NGHTTP2_INTERNAL_ERROR) : 0;
}

/* The frame lies in the stream's queue with room for its header before it; the flush writes it as it is. PAUSE: it is
 * to be written before nghttp2 makes the next. */
static int on_send_data(nghttp2_session *session, nghttp2_frame *frame, const uint8_t *header, size_t n,
	nghttp2_data_source *source ADIT_UNUSED, void *ctx)
{
	struct h2 *h = ctx;
	struct h2_stream *s = stream_at(session, frame->hd.stream_id);
	char *p = NULL;
	size_t here;

	ADIT_ASSERT(s && !h->sending);
	here = h2_stream_front(s, &p);
	ADIT_ASSERT(n > 0 && n <= here);
	p -= H2_FRAME_HEADER_BYTES;
	memcpy(p, header, H2_FRAME_HEADER_BYTES);
	h->sending = s;
	h->out_p = p;
	h->out_n = n + H2_FRAME_HEADER_BYTES;
	return NGHTTP2_ERR_PAUSE;
}

/* Frames of which nobody here knows the meaning are nothing but their cost. */
static int on_extension(nghttp2_session *session ADIT_UNUSED, void **payload ADIT_UNUSED,
	const nghttp2_frame_hd *hd ADIT_UNUSED, void *ctx ADIT_UNUSED)
{
	return NGHTTP2_ERR_CANCEL;
}

/* --- the session --- */

enum { RESETS_UNLIMITED = 1000000, HEAD_SLACK_BYTES = 64 * 1024 };

/* nghttp2 tells of unknown frames only when it is asked to. */
static void hear_of_extensions(nghttp2_option *option)
{
	for (unsigned type = NGHTTP2_CONTINUATION + 1; type <= UINT8_MAX; type++)
		nghttp2_option_set_user_recv_extension_type(option, (uint8_t)type);
}

static void set_callbacks(nghttp2_session_callbacks *c)
{
	nghttp2_session_callbacks_set_on_begin_frame_callback(c, on_begin_frame);
	nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback(c, on_header);
	nghttp2_session_callbacks_set_on_invalid_header_callback(c, on_invalid_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame_recv);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(c, on_invalid_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data_chunk);
	nghttp2_session_callbacks_set_on_stream_close_callback(c, on_stream_close);
	nghttp2_session_callbacks_set_on_frame_send_callback(c, on_frame_send);
	nghttp2_session_callbacks_set_on_frame_not_send_callback(c, on_frame_not_send);
	nghttp2_session_callbacks_set_send_data_callback(c, on_send_data);
	nghttp2_session_callbacks_set_unpack_extension_callback(c, on_extension);
}

static nghttp2_session *session_new(struct h2 *h)
{
	nghttp2_mem mem = { h, on_malloc, on_free, on_calloc, on_realloc };
	nghttp2_session_callbacks *callbacks = NULL;
	nghttp2_option *option = NULL;
	nghttp2_session *session = NULL;

	if (nghttp2_session_callbacks_new(&callbacks) == 0 && nghttp2_option_new(&option) == 0) {
		set_callbacks(callbacks);
		nghttp2_option_set_no_auto_window_update(option, 1);
		nghttp2_option_set_no_closed_streams(option, 1);
		nghttp2_option_set_max_deflate_dynamic_table_size(option, 0);
		/* targets' heads are bounded already; what nghttp2 finds too long it drops without a word */
		nghttp2_option_set_max_send_header_block_length(option, 2 * h->conf->http.head_bytes + HEAD_SLACK_BYTES);
#ifdef ADIT_NGHTTP2_RESET_LIMIT
		/* counts every reset, those of tunnels that were used as well; the guard knows better, and says why */
		nghttp2_option_set_stream_reset_rate_limit(option, RESETS_UNLIMITED, RESETS_UNLIMITED);
#endif
		hear_of_extensions(option);
		if (nghttp2_session_server_new3(&session, callbacks, h, option, &mem) != 0)
			session = NULL;
	}
	nghttp2_option_del(option);
	nghttp2_session_callbacks_del(callbacks);
	return session;
}

bool h2_session_make(struct h2 *h)
{
	const nghttp2_settings_entry settings[] = {
		{ NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, 0 }, /* no credentials in a table */
		{ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, h->streams_max },
		{ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, H2_WINDOW_FIRST },
		{ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, (uint32_t)h->conf->http2.header_list_bytes },
		{ NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1 }, /* else `level` has no effect */
	};

	TAILQ_INIT(&h->blocks);
	h->session = session_new(h);
	return h->session &&
	       nghttp2_submit_settings(h->session, NGHTTP2_FLAG_NONE, settings,
		   sizeof(settings) / sizeof(settings[0])) == 0 &&
	       nghttp2_session_set_local_window_size(h->session, NGHTTP2_FLAG_NONE, 0,
		   (int32_t)h->conf->http2.window_bytes) == 0;
}
