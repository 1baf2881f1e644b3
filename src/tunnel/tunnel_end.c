/* How a request ends: refused, left behind, or done. */
#include "tunnel/tunnel_priv.h"

#include "adit/base/mem.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"

#include <unistd.h>

static void on_grave(void *ctx)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	deadline_fini(&t->deadline);
	deadline_fini(&t->progress);
	policy_unref(t->policy);
	conf_unref(t->conf);
	mem_free(t->choice);
	mem_free(t->user);
	OBJ_FINI(t);
	mem_free(t);
}

void tunnel_bury(struct tunnel *t)
{
	deadline_clear(&t->deadline);
	deadline_clear(&t->progress);
	loop_unpost(t->env->loop, &t->redial);
	stats_dec(STAT_REQUESTS);
	loop_bury(t->env->loop, &t->grave, on_grave, t);
}

struct stream *tunnel_leave_exchange(struct tunnel *t, enum reason reason)
{
	struct exchange *x = t->exchange;

	TAILQ_REMOVE(&t->env->relaying, t, entry);
	t->relaying = false;
	t->exchange = NULL;
	t->target = NULL;
	return exchange_end(x, reason);
}

/* Nothing calls back any more and no byte of the target is kept. */
static void cancel(struct tunnel *t)
{
	if (t->auth)
		auth_cancel(t->auth);
	if (t->query)
		dns_cancel(t->query);
	if (t->dial)
		dial_cancel(t->dial);
	record_give_up(t->record);
	t->auth = NULL;
	t->query = NULL;
	t->dial = NULL;
	t->record = NULL;
	if (t->exchange)
		tunnel_leave_exchange(t, REASON_INTERNAL);
	else if (t->target)
		stream_close(t->target, STREAM_CLOSE_ABORT);
	t->target = NULL;
	if (t->target_fd >= 0) {
		struct linger reset = { .l_onoff = 1, .l_linger = 0 };

		setsockopt(t->target_fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(t->target_fd);
		t->target_fd = -1;
	}
}

static void say(const struct tunnel *t, enum reason reason)
{
	static struct log_limit limit = LOG_LIMIT(100); /* strangers must not fill the operator's log */
	const struct reason_row *row = reason_row(reason);
	enum log_level level = (enum log_level)(LOG_LEVEL_DEBUG - (int)row->level);
	char client[ADDR_TEXT_SIZE], user[128], target[300];

	if (!log_wants(level) || (!t->access.authenticated && !log_limit(&limit)))
		return;
	log_write(level, "%s: %s: client %s, %s \"%s\", target \"%s\"%s%s, id %s", row->name, row->sentence,
	    addr_text(&t->access.client->address, client), t->access.authenticated ? "user" : "claimed user",
	    log_safe(slice_of(t->access.user ? t->access.user : ""), user, sizeof(user)),
	    log_safe(t->access.target, target, sizeof(target)), t->access.rule ? ", rule " : "",
	    t->access.rule ? t->access.rule : "", t->access.id);
}

void tunnel_count(const struct tunnel *t, struct relay_count *out)
{
	*out = (struct relay_count){ 0 };
	if (t->exchange)
		exchange_count(t->exchange, out);
	else if (t->relay)
		relay_count(t->relay, out);
}

/* The last record of an access that was not, or not any more, given its answer. */
static void record_end(struct tunnel *t, enum reason reason, int status, const struct relay_count *count)
{
	stats_reason(reason);
	say(t, reason);
	if (t->recorded)
		record_close(t->env->audit, &t->access, reason, status, count, loop_now_ms(t->env->loop));
	else
		record_deny(t->env->audit, &t->access, reason);
}

void tunnel_refuse(struct tunnel *t, enum reason reason)
{
	struct response response = response_refusal(reason);
	struct relay_count count;
	char address[ADDR_TEXT_SIZE];

	tunnel_count(t, &count);
	cancel(t);
	record_end(t, reason, response.status, &count);
	response.realm = t->conf->auth.realm;
	response.retry_after_s = t->retry_after_s;
	if (t->access.authenticated) {
		response.rule = t->access.rule;
		if (t->access.address.len > 0)
			response.address = addr_text(&t->access.address, address);
	}
	request_respond(t->request, &response);
	t->request = NULL;
	tunnel_bury(t);
}

void tunnel_vanish(struct tunnel *t, enum reason reason)
{
	struct relay_count count;

	tunnel_count(t, &count);
	if (t->client)
		stream_close(t->client, STREAM_CLOSE_ABORT);
	cancel(t);
	record_end(t, reason, t->client ? 0 : reason_row(reason)->status, &count);
	if (t->client)
		request_end(t->request);
	tunnel_bury(t);
}

/* For the next request of this user to this target. */
static void keep_target(struct tunnel *t, struct stream *target)
{
	const struct authority *to = &t->request->authority;
	struct pool_key key = { .user = t->user, .host = to->host.text, .port = to->port };
	struct pool_limits limits = { t->conf->forward.idle_connections, t->conf->forward.idle_ms };

	if (t->env->pool && !t->env->draining)
		pool_put(t->env->pool, &key, &limits, target, &t->access.address, &t->access.local);
	else
		stream_close(target, STREAM_CLOSE_FLUSH);
}

void tunnel_finish(struct tunnel *t, enum reason reason)
{
	enum stream_close client = STREAM_CLOSE_TRUNCATE, target = STREAM_CLOSE_ABORT;
	struct relay_count count;
	struct stream *kept;

	/* A target must not take a broken-off upload for a whole one, nor a client a broken-off download. */
	if (reason == REASON_OK)
		client = target = STREAM_CLOSE_FLUSH;
	else if (reason == REASON_CLIENT_RESET || reason == REASON_CLIENT_TLS_ERROR || reason == REASON_CLIENT_GONE ||
		 reason == REASON_STALL_TIMEOUT)
		client = STREAM_CLOSE_ABORT;
	tunnel_count(t, &count);
	record_end(t, reason, t->exchange ? exchange_status(t->exchange) : 200, &count);
	stream_close(t->client, client);
	if (t->exchange) {
		kept = tunnel_leave_exchange(t, reason);
		if (kept)
			keep_target(t, kept);
	} else {
		TAILQ_REMOVE(&t->env->relaying, t, entry);
		stats_dec(STAT_TUNNELS);
		stream_close(t->target, target);
		relay_free(t->relay);
	}
	request_end(t->request);
	tunnel_bury(t);
}

void tunnel_end(struct tunnel *t, enum reason reason)
{
	if (!t->exchange || exchange_status(t->exchange) != 0)
		tunnel_finish(t, reason);
	else if (exchange_can_refuse(t->exchange) && reason_row(reason)->status != 0)
		tunnel_refuse(t, reason);
	else
		tunnel_vanish(t, reason);
}

enum step tunnel_refuse_step(struct tunnel *t, enum reason reason)
{
	tunnel_refuse(t, reason);
	return STEP_DONE;
}
