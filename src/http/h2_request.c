/* From a stream's field section to a request, and from its handler's answer to frames. */
#include "http/h2_priv.h"

#include "adit/http/forward.h"

#include <stdio.h>

static struct h2_stream *of_request(struct request *r)
{
	return OBJ_OF(r, struct h2_stream, request);
}

/* --- answers --- */

/* Response HEADERS, with DATA behind them when `body`; else they are the end. */
static bool submit_response(struct h2_stream *s, const struct h2_fields *f, bool body)
{
	struct h2 *h = s->h;
	nghttp2_data_provider provider = { .source = { .ptr = NULL }, .read_callback = h2_stream_data };

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
		    (body_n == 0 || h2_stream_add_out(s, body, body_n));

	s->end_wanted = true;
	good = good && submit_response(s, &f, body_n > 0);
	h2_fields_free(&f);
	return good;
}

static void op_respond(struct request *r, const struct response *response)
{
	struct h2_stream *s = of_request(r);

	ADIT_ASSERT(s->held && !s->replied);
	h2_stream_unhold(s);
	h2_text_wipe(&s->text);
	if (s->live) { /* an exchange that got no reply */
		s->base.closing = true;
		s->base.handler = NULL;
		loop_unpost(s->h->loop, &s->base.wake);
		s->live = false;
	}
	h2_stream_drop_in(s);
	if (s->fault != REASON_OK && s->open) {
		h2_stream_let_go(s); /* nghttp2 has reset it already */
	} else if (s->open) {
		if (respond(s, response))
			h2_stream_linger(s);
		else
			h2_stream_detach(s, NGHTTP2_INTERNAL_ERROR);
	}
	h2_stream_settle(s);
}

static void op_end(struct request *r)
{
	struct h2_stream *s = of_request(r);

	h2_stream_unhold(s);
	h2_stream_settle(s);
}

static struct stream *op_accept(struct request *r)
{
	struct h2_stream *s = of_request(r);
	struct h2_fields f = { 0 };
	bool good = h2_fields_make(&f, 200, NULL, 0) && submit_response(s, &f, true);

	h2_fields_free(&f);
	if (good)
		return h2_stream_carry(s);
	h2_stream_detach(s, NGHTTP2_INTERNAL_ERROR);
	return NULL;
}

static struct stream *op_exchange(struct request *r)
{
	struct h2_stream *s = of_request(r);

	return s->open ? h2_stream_carry(s) : NULL;
}

/* Field lines of a forwarded message; the text is nghttp2's to change. */
static bool make_fields(struct h2_fields *f, int status, struct slice fields, char **text)
{
	*text = mem_strndup(fields.p ? fields.p : "", fields.n);
	return *text && h2_fields_make(f, status, *text, fields.n);
}

/* For the record: it was not the client. */
static bool no_memory(struct h2_stream *s)
{
	s->request.fault = REASON_NO_MEMORY;
	return false;
}

/* Heads pass no window: who brings more of them waits until these have left. */
static void count_heads(struct h2_stream *s, size_t n)
{
	s->heads += n;
	s->h->heads_total += n;
}

static bool op_interim(struct request *r, int status, struct slice fields)
{
	struct h2_stream *s = of_request(r);
	struct h2 *h = s->h;
	struct h2_fields f = { 0 };
	char *text = NULL;
	bool good;

	if (!s->open || h->session_failed)
		return false;
	good = make_fields(&f, status, fields, &text) &&
	       nghttp2_submit_headers(h->session, NGHTTP2_FLAG_NONE, s->id, NULL, f.nv, f.n, NULL) == 0;
	if (good)
		count_heads(s, fields.n + 1);
	h2_fields_free(&f);
	mem_free(text);
	h2_post_flush(h);
	return good || no_memory(s);
}

static bool op_reply(struct request *r, int status, struct slice fields, struct framing framing)
{
	struct h2_stream *s = of_request(r);
	struct h2_fields f = { 0 };
	char *text = NULL, length[24];
	bool body = framing.kind != FRAMING_NONE && !(framing.kind == FRAMING_LENGTH && framing.length == 0), good;

	if (!s->open || s->h->session_failed)
		return false;
	(void)snprintf(length, sizeof(length), "%llu", framing.length);
	good = make_fields(&f, status, fields, &text) &&
	       (framing.kind != FRAMING_LENGTH || h2_fields_add(&f, "content-length", length));
	s->end_wanted = !body;
	good = good && submit_response(s, &f, body);
	if (good)
		count_heads(s, fields.n + 1);
	h2_fields_free(&f);
	mem_free(text);
	return good || no_memory(s);
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

/* --- the request --- */

void h2_request_begin(struct h2_stream *s)
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
		h2_stream_detach(s, NGHTTP2_REFUSED_STREAM);
		return;
	}
	*r = (struct request){ .ops = &request_ops, .client = h->client, .conf = h->conf };
	if (!good || !request_fill(r, &head, fault != REASON_OK ? fault : why, "h2")) {
		stats_reason(REASON_NO_MEMORY);
		h2_stream_detach(s, NGHTTP2_INTERNAL_ERROR);
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

void h2_request_trailers(struct h2_stream *s)
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
