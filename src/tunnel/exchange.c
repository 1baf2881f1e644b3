/* A forwarded request: its head goes to the target, and then bodies go both ways until the response's is over.
 *
 *     client's message --(relay: up)-->   target's message        r->forward goes before it
 *     client's message <-(relay: down)--  target's message        heads of responses pass through here
 *
 * What is hard is when to stop. Nothing said by the target yet: the client is told by a response of our own what went
 * wrong. Once a response has begun nothing can be told any more, so the message must break visibly. A response that is
 * complete ends it all, whether the request was complete or not. */
#include "tunnel/exchange.h"

#include "adit/base/mem.h"
#include "adit/http/message.h"
#include "adit/log/stats.h"

#define EXCHANGE_MAGIC OBJ_MAGIC('x', 'c', 'h', 'g')

struct exchange {
	uint32_t magic;
	struct loop *loop;
	struct request *request;
	struct stream *client, *wire;
	struct stream *target; /* the messages on the wire */
	struct relay *relay;
	struct deadline response;
	unsigned response_ms, half_closed_ms;
	int status;
	bool keep_alive; /* the target's word */
	bool switched; /* 101 */
	struct loop_task failing; /* ends it with `why` */
	bool lost; /* half of a head went to the client, or it is gone */
	enum reason why; /* what is wrong with the response; REASON_OK: nothing */
	char *trailers; /* what request->reply_trailers points into */
	exchange_done_fn *done;
	void *ctx;
};

/* --- what a response's parts lead to --- */

static bool pass_head(struct exchange *x, const struct response_head *head, struct slice fields)
{
	if (head->status < 200 && !head->upgrade)
		return request_interim(x->request, head->status, fields);
	x->status = head->status;
	x->keep_alive = head->keep_alive;
	x->switched = head->upgrade;
	deadline_clear(&x->response);
	if (x->switched)
		relay_switch(x->relay, x->half_closed_ms);
	/* RFC 9112 9.5: who refuses and closes wants no more of the body, and would reset us for it */
	else if (head->status >= 400 && !head->keep_alive)
		relay_stop_up(x->relay);
	return request_reply(x->request, head->status, fields, head->framing);
}

static bool on_head(void *ctx, const struct response_head *head)
{
	static const char added[] = "Via: 1.1 adit\r\nUpgrade: websocket\r\n";
	struct exchange *x;
	size_t room = head->fields.n + sizeof(added), n;
	char *fields;

	OBJ_CAST(x, ctx, EXCHANGE_MAGIC);
	if (head->upgrade && !x->request->upgrade) {
		x->why = REASON_RESPONSE_INVALID; /* nobody asked for it */
		return false;
	}
	fields = mem_alloc(room);
	if (!fields) {
		x->why = REASON_NO_MEMORY;
		return false;
	}
	n = forward_response_fields(head, fields, room);
	ADIT_ASSERT(n > 0);
	if (!pass_head(x, head, (struct slice){ fields, n })) {
		x->lost = true;
		x->why = x->request->fault != REASON_OK ? x->request->fault : REASON_CLIENT_RESET;
	}
	mem_free(fields);
	return !x->lost;
}

static bool on_body_ended(void *ctx, struct slice trailers)
{
	struct exchange *x;

	OBJ_CAST(x, ctx, EXCHANGE_MAGIC);
	if (trailers.n == 0)
		return true;
	x->trailers = mem_alloc(trailers.n);
	if (!x->trailers)
		return false;
	x->request->reply_trailers = (struct slice){ x->trailers, forward_trailers(trailers, x->trailers, trailers.n) };
	return true;
}

static void on_broken(void *ctx, enum reason why)
{
	struct exchange *x;

	OBJ_CAST(x, ctx, EXCHANGE_MAGIC);
	x->why = why;
}

static struct slice request_trailers(void *ctx)
{
	struct exchange *x;

	OBJ_CAST(x, ctx, EXCHANGE_MAGIC);
	return x->request->trailers;
}

static const struct message_events target_events = {
	.head = on_head,
	.ended = on_body_ended,
	.broken = on_broken,
	.trailers = request_trailers,
};

/* --- the end --- */

/* The relay knows whose stream broke; what broke in it is known here. */
static enum reason judge(const struct exchange *x, enum reason reason)
{
	struct relay_count count;

	switch (reason) {
	case REASON_CLIENT_RESET:
		return x->request->fault != REASON_OK ? x->request->fault : reason;
	case REASON_TARGET_RESET:
	case REASON_TARGET_ERROR:
		if (x->why != REASON_OK)
			return x->why;
		return x->status == 0 ? REASON_RESPONSE_INCOMPLETE : reason;
	case REASON_IDLE_TIMEOUT:
		relay_count(x->relay, &count);
		return x->status == 0 && count.client_ended ? REASON_RESPONSE_TIMEOUT : reason;
	case REASON_STALL_TIMEOUT:
	case REASON_LIFETIME:
		return x->status == 0 ? REASON_RESPONSE_TIMEOUT : reason;
	default:
		return reason;
	}
}

static void on_relayed(void *ctx, enum reason reason)
{
	struct exchange *x;

	OBJ_CAST(x, ctx, EXCHANGE_MAGIC);
	deadline_clear(&x->response);
	x->done(x->ctx, judge(x, reason));
}

static void on_failing(void *ctx)
{
	struct exchange *x;

	OBJ_CAST(x, ctx, EXCHANGE_MAGIC);
	x->done(x->ctx, x->why);
}

/* What came before the request was sent is no answer to it, and an answer behind it would be taken for the next
 * request's. */
static bool has_spoken_first(struct stream *target)
{
	char byte;
	size_t n;

	return stream_read(target, &byte, 1, &n) == STREAM_IO_OK;
}

/* The time runs from the last byte of the request that moved. */
static void on_response_deadline(void *ctx)
{
	struct exchange *x;
	unsigned long long now, due;

	OBJ_CAST(x, ctx, EXCHANGE_MAGIC);
	now = loop_now_ms(x->loop);
	due = relay_active_ms(x->relay) + x->response_ms;
	if (now < due)
		(void)deadline_set(&x->response, (unsigned)(due - now)); /* the timer is there already */
	else
		x->done(x->ctx, REASON_RESPONSE_TIMEOUT);
}

struct exchange *exchange_start(struct loop *loop, struct request *r, struct stream *client, struct stream *target,
	const struct exchange_limits *limits, exchange_done_fn *done, void *ctx)
{
	struct exchange *x = mem_alloc(sizeof(*x));
	struct relay_limits relay = limits->relay;

	if (!x)
		return NULL;
	OBJ_INIT(x, EXCHANGE_MAGIC);
	x->loop = loop;
	x->request = r;
	x->client = client;
	x->wire = target;
	x->response_ms = limits->response_ms;
	x->half_closed_ms = relay.half_closed_ms;
	x->done = done;
	x->ctx = ctx;
	relay.exchange = true;
	relay.half_closed_ms = DEADLINE_OFF;
	loop_task_init(&x->failing, on_failing, x);
	deadline_init(&x->response, loop, on_response_deadline, x);
	if (!deadline_set(&x->response, x->response_ms))
		goto fail;
	x->target = message_new(loop, target, limits->head.head_bytes, &target_events, x);
	if (!x->target)
		goto fail;
	message_read_response(x->target, r->method, &limits->head);
	message_write(x->target, r->framing);
	x->relay = relay_start(loop, client, x->target, &relay, on_relayed, x);
	if (!x->relay)
		goto fail;
	if (has_spoken_first(target)) {
		x->why = REASON_RESPONSE_INVALID;
		loop_post(loop, &x->failing);
	} else {
		message_send_head(x->target, r->forward);
	}
	stats_inc(STAT_EXCHANGES);
	stats_inc(STAT_FORWARDED);
	return x;
fail:
	if (x->target)
		stream_close(x->target, STREAM_CLOSE_ABORT); /* the wire stays open */
	deadline_fini(&x->response);
	OBJ_FINI(x);
	mem_free(x);
	return NULL;
}

int exchange_status(const struct exchange *x)
{
	return x->status;
}

bool exchange_is_untouched(const struct exchange *x)
{
	return x->status == 0 && !x->lost && !message_has_begun(x->target);
}

bool exchange_can_refuse(const struct exchange *x)
{
	return x->status == 0 && !x->lost;
}

void exchange_count(const struct exchange *x, struct relay_count *out)
{
	relay_count(x->relay, out);
	/* the end of a request is not the end of a connection */
	out->client_ended = out->client_ended && x->switched;
	out->client_truncated = out->client_truncated && x->switched;
}

/* The connection is as it was before the request. */
static bool can_be_kept(const struct exchange *x)
{
	return x->keep_alive && !x->switched && message_is_read(x->target) && message_is_written(x->target) &&
	       !message_has_more(x->target);
}

struct stream *exchange_end(struct exchange *x, enum reason reason)
{
	struct stream *wire;
	bool kept, whole;

	OBJ_CHECK(x, EXCHANGE_MAGIC);
	wire = x->wire;
	kept = reason == REASON_OK && can_be_kept(x);
	/* A target must not take a broken-off upload for a whole one. */
	whole = reason == REASON_OK && (x->switched || message_is_written(x->target));
	stream_close(x->target, STREAM_CLOSE_FLUSH);
	if (!kept)
		stream_close(wire, whole ? STREAM_CLOSE_FLUSH : STREAM_CLOSE_ABORT);
	relay_free(x->relay);
	loop_unpost(x->loop, &x->failing);
	deadline_fini(&x->response);
	x->request->reply_trailers = (struct slice){ 0 };
	mem_free(x->trailers);
	stats_dec(STAT_EXCHANGES);
	OBJ_FINI(x);
	mem_free(x);
	return kept ? wire : NULL;
}
