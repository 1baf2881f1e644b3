/* The bytes of one request: a CONNECT's are relayed, those of an http:// URL exchanged. */
#include "tunnel/tunnel_priv.h"

#include "adit/log/stats.h"
#include "adit/stream/tcp.h"

static void on_relayed(void *ctx, enum reason reason)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	tunnel_finish(t, reason);
}

void tunnel_on_progress(void *ctx)
{
	struct tunnel *t;
	struct relay_count count;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	tunnel_count(t, &count);
	record_progress(t->env->audit, &t->access, &count, loop_now_ms(t->env->loop));
	(void)deadline_set(&t->progress, t->conf->audit.progress_ms); /* the timer is there already */
}

static struct relay_limits relay_limits(const struct tunnel *t)
{
	return (struct relay_limits){
		.idle_ms = t->conf->deadlines.idle,
		.half_closed_ms = t->conf->deadlines.half_closed,
		.stall_ms = t->conf->deadlines.stall,
		.lifetime_ms = t->conf->deadlines.lifetime,
		.buffer = t->env->buffer,
		.buffer_bytes = t->env->buffer_bytes,
	};
}

/* Both streams, and the timer of progress records. */
static bool open_streams(struct tunnel *t, struct stream *open_client(struct request *))
{
	struct request *r = t->request;

	if (!t->target)
		t->target = tcp_stream_new(t->env->loop, t->target_fd, t->conf->deadlines.linger);
	if (t->target)
		t->target_fd = -1;
	if (!t->target || !deadline_set(&t->progress, t->conf->audit.progress_ms)) {
		tunnel_refuse(t, REASON_NO_MEMORY);
		return false;
	}
	if (!t->client)
		t->client = open_client(r);
	if (!t->client) {
		tunnel_vanish(t, REASON_CLIENT_GONE);
		request_end(r);
		return false;
	}
	return true;
}

/* Everything that may fail for want of memory comes before the 200. */
enum step tunnel_relay(struct tunnel *t)
{
	struct relay_limits limits = relay_limits(t);

	if (!open_streams(t, request_accept))
		return STEP_DONE;
	stats_inc(STAT_TUNNELS);
	stats_inc(STAT_TUNNELS_OPENED);
	t->relaying = true;
	TAILQ_INSERT_TAIL(&t->env->relaying, t, entry);
	t->relay = relay_start(t->env->loop, t->client, t->target, &limits, on_relayed, t);
	if (!t->relay) {
		tunnel_finish(t, REASON_NO_MEMORY);
		return STEP_DONE;
	}
	return STEP_WAIT;
}

static void on_exchanged(void *ctx, enum reason reason)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	if (t->reused && exchange_is_untouched(t->exchange) &&
	    (reason == REASON_RESPONSE_INCOMPLETE || reason == REASON_RESPONSE_INVALID))
		tunnel_repeat(t);
	else
		tunnel_end(t, reason);
}

enum step tunnel_forward(struct tunnel *t)
{
	struct exchange_limits limits = {
		.relay = relay_limits(t),
		.response_ms = t->conf->deadlines.response,
		.head = {
			.request_line_bytes = t->conf->http.request_line_bytes,
			.head_bytes = t->conf->http.head_bytes,
			.fields = t->conf->http.fields,
		},
	};

	if (!t->access.forwarded)
		return STEP_NEXT;
	if (!open_streams(t, request_exchange))
		return STEP_DONE;
	t->exchange = exchange_start(t->env->loop, t->request, t->client, t->target, &limits, on_exchanged, t);
	if (!t->exchange)
		return tunnel_refuse_step(t, REASON_NO_MEMORY);
	t->relaying = true;
	TAILQ_INSERT_TAIL(&t->env->relaying, t, entry);
	return STEP_WAIT;
}
