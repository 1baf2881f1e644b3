/* The way of one request, top to bottom.
 *
 *   screen -> authenticate -> authorise name -> resolve -> authorise addresses -> dial -> record -> confirm
 *          -> accept -> relay        a CONNECT
 *          -> forward                an http:// URL; an idle connection of the same user may save resolve to dial
 *
 * `steps` is that list. A step returns NEXT, WAIT (its callback will go on) or DONE (answered). Every step that waits
 * has a deadline with a reason of its own. However it ends, it ends in refuse(), vanish() or finish(), each with
 * exactly one reason and exactly one last record. */
#include "adit/tunnel/tunnel.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"
#include "adit/dial/dial.h"
#include "adit/http/local.h"
#include "adit/log/log.h"
#include "adit/log/stats.h"
#include "adit/stream/tcp.h"
#include "adit/tunnel/relay.h"
#include "tunnel/exchange.h"
#include "tunnel/record.h"

#include <unistd.h>

enum step { STEP_NEXT, STEP_WAIT, STEP_DONE };

struct tunnel;
typedef enum step step_fn(struct tunnel *t);

/* Rules are many and tunnels more: what a reload has to look at is spread over turns of the loop. */
enum { REVIEWS_PER_TURN = 64 };

/* Wrong passwords on one connection, one after the other. */
enum { WRONG_IN_A_ROW_MAX = 10, WRONG_RETRY_AFTER_S = 60 };

/* Where the tunnel may go. */
struct choice {
	struct addr addresses[DNS_ADDRESSES_MAX];
	const char *rules[DNS_ADDRESSES_MAX]; /* which let each of them through */
	size_t count;
};

#define TUNNEL_MAGIC OBJ_MAGIC('t', 'u', 'n', 'l')

struct tunnel {
	uint32_t magic;
	struct tunnel_env *env;
	struct conf *conf;
	struct policy *policy; /* that allowed the addresses; NULL before */
	unsigned generation; /* of users and policy, when they were asked last */
	struct request *request; /* NULL once it was answered with a refusal */
	size_t at; /* index into steps */
	struct deadline deadline;
	enum reason deadline_reason;
	struct loop_grave grave;

	struct access access;
	char *user;
	unsigned retry_after_s;
	struct choice *choice; /* NULL before resolve and after dial: an idle tunnel need not carry it */

	/* at most one of these is under way */
	struct auth_job *auth;
	struct dns_query *query;
	struct dial *dial;
	struct record_wait *record;

	bool recorded; /* an open record was handed to the writer: a close record must follow */
	bool relaying; /* and in env's list */
	TAILQ_ENTRY(tunnel) entry;
	int target_fd; /* connected, before the record; -1: none */
	struct stream *client, *target;
	struct relay *relay; /* of a CONNECT */
	struct exchange *exchange; /* of a forwarded request; `target` is its own then */
	bool reused; /* over a connection that was idle: the target may have closed it meanwhile */
	bool redialled;
	struct loop_task redial;
	struct deadline progress;
};

static void run(struct tunnel *t);
static void skip_to(struct tunnel *t, step_fn *step);
static void refuse(struct tunnel *t, enum reason reason);

/* --- ends --- */

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

static void bury(struct tunnel *t)
{
	deadline_clear(&t->deadline);
	deadline_clear(&t->progress);
	loop_unpost(t->env->loop, &t->redial);
	stats_dec(STAT_REQUESTS);
	loop_bury(t->env->loop, &t->grave, on_grave, t);
}

/* Nothing of it calls back any more. What comes back is fit for another request. */
static struct stream *leave_exchange(struct tunnel *t, enum reason reason)
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
		leave_exchange(t, REASON_INTERNAL);
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

static void count_bytes(const struct tunnel *t, struct relay_count *out)
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

static void refuse(struct tunnel *t, enum reason reason)
{
	struct response response = response_refusal(reason);
	struct relay_count count;
	char address[ADDR_TEXT_SIZE];

	count_bytes(t, &count);
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
	bury(t);
}

/* The client is gone before its answer, or cannot be given one. */
static void vanish(struct tunnel *t, enum reason reason)
{
	struct relay_count count;

	count_bytes(t, &count);
	if (t->client)
		stream_close(t->client, STREAM_CLOSE_ABORT);
	cancel(t);
	record_end(t, reason, t->client ? 0 : reason_row(reason)->status, &count);
	if (t->client)
		request_end(t->request);
	bury(t);
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

/* The tunnel, or the exchange whose response had begun, is over. */
static void finish(struct tunnel *t, enum reason reason)
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
	count_bytes(t, &count);
	record_end(t, reason, t->exchange ? exchange_status(t->exchange) : 200, &count);
	stream_close(t->client, client);
	if (t->exchange) {
		kept = leave_exchange(t, reason);
		if (kept)
			keep_target(t, kept);
	} else {
		TAILQ_REMOVE(&t->env->relaying, t, entry);
		stats_dec(STAT_TUNNELS);
		stream_close(t->target, target);
		relay_free(t->relay);
	}
	request_end(t->request);
	bury(t);
}

/* An exchange or a tunnel ends for a reason of ours or theirs, in the way that is left. */
static void end(struct tunnel *t, enum reason reason)
{
	if (!t->exchange || exchange_status(t->exchange) != 0)
		finish(t, reason);
	else if (exchange_can_refuse(t->exchange) && reason_row(reason)->status != 0)
		refuse(t, reason);
	else
		vanish(t, reason);
}

/* --- going on --- */

static void go_on(struct tunnel *t)
{
	deadline_clear(&t->deadline);
	t->at++;
	run(t);
}

static void on_deadline(void *ctx)
{
	struct tunnel *t;
	enum reason reason;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	reason = t->deadline_reason;
	if (reason == REASON_AUDIT_TIMEOUT && t->conf->audit.on_failure_allow) {
		record_give_up(t->record); /* it may still be written; the operator has chosen not to wait for it */
		t->record = NULL;
		go_on(t);
		return;
	}
	if (t->dial)
		reason = dial_failure(t->dial, &t->access.address);
	refuse(t, reason);
}

/* The step at hand waits, at most so long. */
static enum step wait_for(struct tunnel *t, unsigned ms, enum reason late)
{
	t->deadline_reason = late;
	if (deadline_set(&t->deadline, ms))
		return STEP_WAIT;
	refuse(t, REASON_NO_MEMORY);
	return STEP_DONE;
}

static enum step refuse_step(struct tunnel *t, enum reason reason)
{
	refuse(t, reason);
	return STEP_DONE;
}

/* --- the steps --- */

static enum step screen(struct tunnel *t)
{
	struct request *r = t->request;

	if (r->fault != REASON_OK)
		return refuse_step(t, r->fault);
	if (r->form == HEAD_FORM_ORIGIN || r->form == HEAD_FORM_ASTERISK) {
		struct response response = local_answer(r, t->env->draining);

		if (response.reason != REASON_OK && response.reason != REASON_DRAINING)
			return refuse_step(t, response.reason);
		request_respond(r, &response); /* health checks are not accesses: no record */
		t->request = NULL;
		bury(t);
		return STEP_DONE;
	}
	if (t->env->draining)
		return refuse_step(t, REASON_DRAINING);
	t->access.forwarded = r->form == HEAD_FORM_ABSOLUTE;
	return STEP_NEXT;
}

static void authenticated(struct tunnel *t)
{
	const struct client *client = t->request->client;

	t->access.authenticated = true;
	if (client->authenticated)
		client->authenticated(client->authenticated_ctx);
}

/* Firefox repeats a wrong password for ever over HTTP/2, each time on a new stream, without asking anybody: 429 is
 * where it stops and says so. A right one is right all the same. */
static enum reason count_wrong(struct tunnel *t, enum reason verdict)
{
	unsigned *wrong = t->request->client->wrong;

	if (!wrong)
		return verdict;
	if (verdict == REASON_OK)
		*wrong = 0;
	if (verdict != REASON_AUTH_FAILED || ++*wrong <= WRONG_IN_A_ROW_MAX)
		return verdict;
	t->retry_after_s = WRONG_RETRY_AFTER_S;
	return REASON_AUTH_THROTTLED;
}

static void on_auth(void *ctx, enum reason verdict, unsigned retry_after_s)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	t->auth = NULL;
	t->retry_after_s = retry_after_s;
	verdict = count_wrong(t, verdict);
	if (verdict != REASON_OK) {
		refuse(t, verdict);
		return;
	}
	authenticated(t);
	go_on(t);
}

static enum step authenticate(struct tunnel *t)
{
	struct request *r = t->request;
	struct credentials c;
	enum reason verdict;

	if (!r->has_credentials) {
		request_forget(r);
		return refuse_step(t, REASON_AUTH_REQUIRED);
	}
	verdict = basic_decode(r->credentials, &c);
	request_forget(r);
	if (verdict == REASON_OK) {
		t->user = mem_strndup(c.user, c.user_n);
		t->access.user = t->user;
		verdict = t->user ? auth_check(t->env->auth, t->env->loop, &c, &r->client->address, on_auth, t, &t->auth,
					    &t->retry_after_s)
				  : REASON_NO_MEMORY;
	}
	credentials_burn(&c);
	if (t->auth)
		return wait_for(t, t->conf->deadlines.auth, REASON_AUTH_TIMEOUT);
	verdict = count_wrong(t, verdict);
	if (verdict != REASON_OK)
		return refuse_step(t, verdict);
	authenticated(t);
	return STEP_NEXT;
}

static struct policy_question question(const struct tunnel *t)
{
	struct policy_question q = {
		.user = t->user,
		.host = &t->request->authority.host,
		.port = t->request->authority.port,
		.default_ports = { 443, 0 },
	};

	if (t->access.forwarded) {
		q.default_ports[0] = 80;
		q.default_ports[1] = 443;
	}
	return q;
}

/* RFC 9110 7.6.2. Like the proxy's own pages: an answer, and no access. */
static enum step last_hop(struct tunnel *t)
{
	struct response response;

	if (!t->request->last_hop)
		return STEP_NEXT;
	response = local_last_hop(t->request);
	if (response.reason != REASON_OK)
		return refuse_step(t, response.reason);
	request_respond(t->request, &response);
	t->request = NULL;
	bury(t);
	return STEP_DONE;
}

static enum step authorise_name(struct tunnel *t)
{
	struct policy_question q = question(t);
	struct policy_answer answer = policy_name(t->env->policy, &q);

	if (answer.verdict == POLICY_DENY) {
		t->access.rule = answer.rule;
		return refuse_step(t, answer.reason);
	}
	return STEP_NEXT;
}

static bool take_addresses(struct tunnel *t, const struct addr *addresses, size_t count)
{
	t->choice = mem_alloc(sizeof(*t->choice));
	if (!t->choice)
		return false;
	memcpy(t->choice->addresses, addresses, count * sizeof(*addresses));
	t->choice->count = count;
	return true;
}

static void on_resolved(void *ctx, enum reason verdict, const struct dns_result *result)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	t->query = NULL;
	if (verdict == REASON_OK && !take_addresses(t, result->addr, result->count))
		verdict = REASON_NO_MEMORY;
	if (verdict != REASON_OK) {
		refuse(t, verdict);
		return;
	}
	go_on(t);
}

static enum step resolve(struct tunnel *t)
{
	const struct host *host = &t->request->authority.host;
	struct dns_result result;
	enum reason verdict;

	if (host->kind == HOST_IS_ADDRESS)
		return take_addresses(t, &host->addr, 1) ? STEP_NEXT : refuse_step(t, REASON_NO_MEMORY);
	verdict = dns_resolve(t->env->dns, host->text, on_resolved, t, &result, &t->query);
	if (t->query)
		return wait_for(t, t->conf->deadlines.resolve, REASON_DNS_TIMEOUT);
	if (verdict == REASON_OK && !take_addresses(t, result.addr, result.count))
		verdict = REASON_NO_MEMORY;
	return verdict == REASON_OK ? STEP_NEXT : refuse_step(t, verdict);
}

/* Keeps the allowed ones, exactly those are dialled. */
static enum step authorise_addresses(struct tunnel *t)
{
	struct policy_question q = question(t);
	struct policy_answer refusal = { .reason = REASON_ADDRESS_DENIED };
	struct addr refused = { .len = 0 };
	struct choice *c = t->choice;
	size_t kept = 0;

	t->policy = policy_ref(t->env->policy);
	for (size_t i = 0; i < c->count; i++) {
		struct policy_answer answer = policy_address(t->policy, &q, &c->addresses[i]);

		if (answer.verdict == POLICY_ALLOW) {
			c->rules[kept] = answer.rule;
			c->addresses[kept] = c->addresses[i];
			addr_set_port(&c->addresses[kept++], q.port);
		} else if (refused.len == 0) {
			refusal = answer;
			refused = c->addresses[i];
			addr_set_port(&refused, q.port);
		}
	}
	c->count = kept;
	if (kept > 0) {
		t->access.rule = c->rules[0]; /* until one of them answers */
		return STEP_NEXT;
	}
	t->access.rule = refusal.rule;
	t->access.address = refused;
	return refuse_step(t, refusal.reason);
}

static void on_dialled(void *ctx, enum reason verdict, int fd, const struct addr *address)
{
	struct tunnel *t;
	struct sockaddr_storage local;
	socklen_t local_n = sizeof(local);

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	t->dial = NULL;
	if (address)
		t->access.address = *address;
	/* Idle connections are no reason to refuse: they go, and the next look finds their descriptors free. */
	if (verdict == REASON_NO_DESCRIPTORS && !t->redialled && t->env->pool && pool_count(t->env->pool) > 0) {
		t->redialled = true;
		pool_empty(t->env->pool);
		loop_post(t->env->loop, &t->redial);
		return;
	}
	for (size_t i = 0; address && i < t->choice->count; i++)
		if (addr_equal(&t->choice->addresses[i], address))
			t->access.rule = t->choice->rules[i];
	mem_free(t->choice);
	t->choice = NULL;
	if (verdict != REASON_OK) {
		refuse(t, verdict);
		return;
	}
	t->target_fd = fd;
	if (getsockname(fd, (struct sockaddr *)&local, &local_n) == 0)
		(void)addr_from_sockaddr(&t->access.local, (struct sockaddr *)&local, local_n);
	go_on(t);
}

static bool start_dial(struct tunnel *t)
{
	t->dial = dial_start(t->env->loop, t->conf, t->choice->addresses, t->choice->count, on_dialled, t);
	return t->dial != NULL;
}

static void on_redial(void *ctx)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	if (!start_dial(t))
		refuse(t, REASON_NO_MEMORY);
}

static enum step dial(struct tunnel *t)
{
	if (!start_dial(t))
		return refuse_step(t, REASON_NO_MEMORY);
	return wait_for(t, t->conf->deadlines.dial, REASON_DIAL_TIMEOUT);
}

static void on_recorded(void *ctx, enum reason verdict)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	t->record = NULL;
	if (verdict != REASON_OK) {
		t->recorded = false;
		refuse(t, verdict);
		return;
	}
	go_on(t);
}

static enum step record(struct tunnel *t)
{
	enum reason verdict;

	if (t->recorded)
		return STEP_NEXT; /* the request is repeated: the same access */
	verdict = record_open(t->env->audit, t->env->loop, &t->access, on_recorded, t, &t->record);
	if (verdict != REASON_OK)
		return refuse_step(t, verdict);
	t->recorded = true;
	return wait_for(t, t->conf->deadlines.audit, REASON_AUDIT_TIMEOUT);
}

/* Would the tunnel be let through now? Follows users and policy in force. REASON_OK, or why not. */
static enum reason judge_again(struct tunnel *t)
{
	struct policy_question q = question(t);
	struct policy_answer answer;

	if (t->generation == t->env->generation)
		return REASON_OK;
	if (!auth_knows(t->env->auth, slice_of(t->user)))
		return REASON_AUTH_FAILED;
	answer = policy_address(t->env->policy, &q, &t->access.address);
	policy_ref(t->env->policy);
	policy_unref(t->policy);
	t->policy = t->env->policy;
	t->access.rule = answer.rule;
	t->generation = t->env->generation;
	return answer.verdict == POLICY_ALLOW ? REASON_OK : answer.reason;
}

/* A reload may have come while the request was on its way. */
static enum step confirm(struct tunnel *t)
{
	enum reason verdict = judge_again(t);

	return verdict == REASON_OK ? STEP_NEXT : refuse_step(t, verdict);
}

static void on_relayed(void *ctx, enum reason reason)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	finish(t, reason);
}

static void on_progress(void *ctx)
{
	struct tunnel *t;
	struct relay_count count;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	count_bytes(t, &count);
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
		refuse(t, REASON_NO_MEMORY);
		return false;
	}
	if (!t->client)
		t->client = open_client(r);
	if (!t->client) {
		vanish(t, REASON_CLIENT_GONE);
		request_end(r);
		return false;
	}
	return true;
}

/* Everything that may fail for want of memory comes before the 200. */
static enum step accept_and_relay(struct tunnel *t)
{
	struct relay_limits limits = relay_limits(t);

	if (!open_streams(t, request_accept))
		return STEP_DONE;
	stats_inc(STAT_TUNNELS);
	stats_inc(STAT_TUNNELS_OPENED);
	t->relay = relay_start(t->env->loop, t->client, t->target, &limits, on_relayed, t);
	if (!t->relay) {
		struct relay_count nothing = { 0 };

		stats_dec(STAT_TUNNELS);
		stats_reason(REASON_NO_MEMORY);
		record_close(t->env->audit, &t->access, REASON_NO_MEMORY, 200, &nothing, loop_now_ms(t->env->loop));
		stream_close(t->client, STREAM_CLOSE_ABORT);
		stream_close(t->target, STREAM_CLOSE_ABORT);
		request_end(t->request);
		bury(t);
		return STEP_DONE;
	}
	t->relaying = true;
	TAILQ_INSERT_TAIL(&t->env->relaying, t, entry);
	return STEP_WAIT;
}

/* --- forwarding --- */

/* What may be sent a second time when the first one met a connection that was closing (RFC 9110 9.2.2). */
static bool is_repeatable(const struct request *r)
{
	switch (r->method) {
	case HEAD_GET:
	case HEAD_HEAD:
	case HEAD_OPTIONS:
	case HEAD_TRACE:
		return r->framing.kind == FRAMING_NONE && !r->upgrade;
	default:
		return false;
	}
}

/* Over a connection that a request of this user to this target left idle, when the policy allows its address now. */
static enum step reuse(struct tunnel *t)
{
	const struct request *r = t->request;
	struct policy_question q = question(t);
	struct pool_key key = { .user = t->user, .host = q.host->text, .port = q.port };
	struct policy_answer answer;

	if (!t->access.forwarded || !t->env->pool || !is_repeatable(r))
		return STEP_NEXT;
	t->target = pool_take(t->env->pool, &key, &t->access.address, &t->access.local);
	if (!t->target)
		return STEP_NEXT;
	answer = policy_address(t->env->policy, &q, &t->access.address);
	if (answer.verdict != POLICY_ALLOW) {
		stream_close(t->target, STREAM_CLOSE_ABORT);
		t->target = NULL;
		t->access.address.len = t->access.local.len = 0;
		return STEP_NEXT;
	}
	t->policy = policy_ref(t->env->policy);
	t->access.rule = answer.rule;
	t->reused = true;
	stats_inc(STAT_REUSED);
	skip_to(t, record);
	return STEP_NEXT;
}

/* The connection was closed under the request: once more, over a fresh one to the same address, which is on record. */
static void repeat(struct tunnel *t)
{
	(void)leave_exchange(t, REASON_TARGET_RESET);
	stream_attach(t->client, NULL, NULL);
	t->reused = false;
	t->access.local.len = 0;
	if (!take_addresses(t, &t->access.address, 1)) {
		refuse(t, REASON_NO_MEMORY);
		return;
	}
	t->choice->rules[0] = t->access.rule;
	t->at = 0;
	skip_to(t, dial);
	go_on(t);
}

static void on_exchanged(void *ctx, enum reason reason)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	if (t->reused && exchange_is_untouched(t->exchange) &&
	    (reason == REASON_RESPONSE_INCOMPLETE || reason == REASON_RESPONSE_INVALID))
		repeat(t);
	else
		end(t, reason);
}

static enum step forward(struct tunnel *t)
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
		return refuse_step(t, REASON_NO_MEMORY);
	t->relaying = true;
	TAILQ_INSERT_TAIL(&t->env->relaying, t, entry);
	return STEP_WAIT;
}

static step_fn *const steps[] = {
	screen,
	authenticate,
	last_hop,
	authorise_name,
	reuse,
	resolve,
	authorise_addresses,
	dial,
	record,
	confirm,
	forward,
	accept_and_relay,
};

/* Whatever comes next, it is that step. */
static void skip_to(struct tunnel *t, step_fn *step)
{
	while (steps[t->at + 1] != step)
		t->at++;
}

static void run(struct tunnel *t)
{
	while (steps[t->at](t) == STEP_NEXT)
		t->at++;
}

/* --- after a reload --- */

static void on_review(void *ctx)
{
	struct tunnel_env *env = ctx;
	enum reason verdict;
	struct tunnel *t;

	for (int i = 0; i < REVIEWS_PER_TURN; i++) {
		t = TAILQ_FIRST(&env->relaying);
		if (!t || t->generation == env->generation)
			return;
		OBJ_CHECK(t, TUNNEL_MAGIC);
		verdict = judge_again(t);
		if (verdict != REASON_OK) {
			/* who has not been answered yet is told why not */
			end(t, t->exchange && exchange_can_refuse(t->exchange) ? verdict : REASON_REVOKED);
			continue;
		}
		TAILQ_REMOVE(&env->relaying, t, entry);
		TAILQ_INSERT_TAIL(&env->relaying, t, entry);
	}
	loop_post(env->loop, &env->review);
}

void tunnels_init(struct tunnel_env *env)
{
	TAILQ_INIT(&env->relaying);
	loop_task_init(&env->review, on_review, env);
}

void tunnels_review(struct tunnel_env *env)
{
	env->generation++;
	if (env->pool)
		pool_empty(env->pool);
	loop_post(env->loop, &env->review);
}

/* --- from http --- */

static void *begin(void *ctx, struct request *r)
{
	struct tunnel_env *env = ctx;
	struct tunnel *t = mem_alloc(sizeof(*t));

	if (!t) {
		struct response response = response_refusal(REASON_NO_MEMORY);

		stats_reason(REASON_NO_MEMORY);
		stats_inc(STAT_AUDIT_FAILED); /* no memory for its record either */
		request_respond(r, &response);
		return NULL;
	}
	OBJ_INIT(t, TUNNEL_MAGIC);
	t->env = env;
	t->conf = conf_ref(env->conf);
	t->generation = env->generation;
	t->request = r;
	t->target_fd = -1;
	deadline_init(&t->deadline, env->loop, on_deadline, t);
	deadline_init(&t->progress, env->loop, on_progress, t);
	loop_task_init(&t->redial, on_redial, t);
	audit_id(t->access.id);
	t->access.client = r->client;
	t->access.protocol = r->protocol;
	t->access.method = r->method_text;
	t->access.target = r->target;
	t->access.started_ms = loop_now_ms(env->loop);
	stats_inc(STAT_REQUESTS);
	run(t);
	return t;
}

static void gone(void *object, enum reason reason)
{
	struct tunnel *t;

	OBJ_CAST(t, object, TUNNEL_MAGIC);
	if (t->relaying && (!t->exchange || exchange_status(t->exchange) != 0))
		finish(t, reason);
	else
		vanish(t, reason);
}

const struct http_handler tunnel_handler = { begin, gone };
