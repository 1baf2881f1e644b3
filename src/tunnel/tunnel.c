/* The way of one request, top to bottom.
 *
 *   screen -> authenticate -> authorise name -> resolve -> authorise addresses -> dial -> record -> confirm
 *          -> accept -> relay
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
#include "tunnel/record.h"

#include <unistd.h>

enum step { STEP_NEXT, STEP_WAIT, STEP_DONE };

/* Rules are many and tunnels more: what a reload has to look at is spread over turns of the loop. */
enum { REVIEWS_PER_TURN = 64 };

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
	struct relay *relay;
	struct deadline progress;
};

static void run(struct tunnel *t);
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
	stats_dec(STAT_REQUESTS);
	loop_bury(t->env->loop, &t->grave, on_grave, t);
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

/* The last record of an access that was not, or not any more, given a 200. */
static void record_end(struct tunnel *t, enum reason reason)
{
	struct relay_count nothing = { 0 };

	stats_reason(reason);
	say(t, reason);
	if (t->recorded)
		record_close(t->env->audit, &t->access, reason, reason_row(reason)->status, &nothing,
		    loop_now_ms(t->env->loop));
	else
		record_deny(t->env->audit, &t->access, reason);
}

static void refuse(struct tunnel *t, enum reason reason)
{
	struct response response = response_refusal(reason);
	char address[ADDR_TEXT_SIZE];

	cancel(t);
	record_end(t, reason);
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

/* The client is gone before its answer. */
static void vanish(struct tunnel *t, enum reason reason)
{
	cancel(t);
	record_end(t, reason);
	bury(t);
}

/* The tunnel is over. */
static void finish(struct tunnel *t, enum reason reason)
{
	struct relay_count count;
	enum stream_close client = STREAM_CLOSE_TRUNCATE, target = STREAM_CLOSE_ABORT;

	/* A target must not take a broken-off upload for a whole one, nor a client a broken-off download. */
	if (reason == REASON_OK)
		client = target = STREAM_CLOSE_FLUSH;
	else if (reason == REASON_CLIENT_RESET || reason == REASON_CLIENT_TLS_ERROR || reason == REASON_STALL_TIMEOUT)
		client = STREAM_CLOSE_ABORT;
	TAILQ_REMOVE(&t->env->relaying, t, entry);
	relay_count(t->relay, &count);
	stats_reason(reason);
	stats_dec(STAT_TUNNELS);
	say(t, reason);
	record_close(t->env->audit, &t->access, reason, 200, &count, loop_now_ms(t->env->loop));
	stream_close(t->client, client);
	stream_close(t->target, target);
	relay_free(t->relay);
	request_end(t->request);
	bury(t);
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
	return STEP_NEXT;
}

static void authenticated(struct tunnel *t)
{
	const struct client *client = t->request->client;

	t->access.authenticated = true;
	if (client->authenticated)
		client->authenticated(client->authenticated_ctx);
}

static void on_auth(void *ctx, enum reason verdict, unsigned retry_after_s)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	t->auth = NULL;
	t->retry_after_s = retry_after_s;
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
	if (verdict != REASON_OK)
		return refuse_step(t, verdict);
	authenticated(t);
	return STEP_NEXT;
}

static struct policy_question question(const struct tunnel *t)
{
	return (struct policy_question){
		.user = t->user,
		.host = &t->request->authority.host,
		.port = t->request->authority.port,
		.default_ports = { 443, 0 },
	};
}

static enum step authorise_name(struct tunnel *t)
{
	struct policy_question q;
	struct policy_answer answer;

	if (t->request->form == HEAD_FORM_ABSOLUTE)
		return refuse_step(t, REASON_FORWARD_UNSUPPORTED);
	q = question(t);
	answer = policy_name(t->env->policy, &q);
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

static enum step dial(struct tunnel *t)
{
	t->dial = dial_start(t->env->loop, t->conf, t->choice->addresses, t->choice->count, on_dialled, t);
	if (!t->dial)
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
	enum reason verdict = record_open(t->env->audit, t->env->loop, &t->access, on_recorded, t, &t->record);

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
	relay_count(t->relay, &count);
	record_progress(t->env->audit, &t->access, &count, loop_now_ms(t->env->loop));
	(void)deadline_set(&t->progress, t->conf->audit.progress_ms); /* the timer is there already */
}

/* Everything that may fail for want of memory comes before the 200. */
static enum step accept_and_relay(struct tunnel *t)
{
	struct relay_limits limits = {
		.idle_ms = t->conf->deadlines.idle,
		.half_closed_ms = t->conf->deadlines.half_closed,
		.stall_ms = t->conf->deadlines.stall,
		.lifetime_ms = t->conf->deadlines.lifetime,
		.buffer = t->env->buffer,
		.buffer_bytes = t->env->buffer_bytes,
	};

	t->target = tcp_stream_new(t->env->loop, t->target_fd, t->conf->deadlines.linger);
	if (!t->target)
		return refuse_step(t, REASON_NO_MEMORY);
	t->target_fd = -1;
	if (!deadline_set(&t->progress, t->conf->audit.progress_ms)) {
		stream_close(t->target, STREAM_CLOSE_ABORT);
		return refuse_step(t, REASON_NO_MEMORY);
	}
	t->client = request_accept(t->request);
	if (!t->client) {
		struct request *r = t->request;

		stream_close(t->target, STREAM_CLOSE_ABORT);
		vanish(t, REASON_CLIENT_GONE);
		request_end(r);
		return STEP_DONE;
	}
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

static enum step (*const steps[])(struct tunnel *t) = {
	screen,
	authenticate,
	authorise_name,
	resolve,
	authorise_addresses,
	dial,
	record,
	confirm,
	accept_and_relay,
};

static void run(struct tunnel *t)
{
	while (steps[t->at](t) == STEP_NEXT)
		t->at++;
}

/* --- after a reload --- */

static void on_review(void *ctx)
{
	struct tunnel_env *env = ctx;
	struct tunnel *t;

	for (int i = 0; i < REVIEWS_PER_TURN; i++) {
		t = TAILQ_FIRST(&env->relaying);
		if (!t || t->generation == env->generation)
			return;
		OBJ_CHECK(t, TUNNEL_MAGIC);
		if (judge_again(t) != REASON_OK) {
			finish(t, REASON_REVOKED);
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
	if (t->relaying)
		finish(t, reason);
	else
		vanish(t, reason);
}

const struct http_handler tunnel_handler = { begin, gone };
