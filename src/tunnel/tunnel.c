/* The way of one request, top to bottom.
 *
 *   screen -> authenticate -> authorise name -> resolve -> authorise addresses -> dial -> record -> confirm
 *          -> accept -> relay        a CONNECT
 *          -> forward                an http:// URL; an idle connection of the same user may save resolve to dial
 *
 * `steps` is that list. A step returns NEXT, WAIT (its callback will go on) or DONE (answered). Every step that waits
 * has a deadline with a reason of its own. However it ends, it ends in tunnel_refuse(), tunnel_vanish() or
 * tunnel_finish() (tunnel_end.c), each with exactly one reason and exactly one last record. */
#include "tunnel/tunnel_priv.h"

#include "adit/base/mem.h"
#include "adit/http/local.h"
#include "adit/log/stats.h"

/* Rules are many and tunnels more: what a reload has to look at is spread over turns of the loop. */
enum { REVIEWS_PER_TURN = 64 };

/* Wrong passwords on one connection, one after the other. */
enum { WRONG_IN_A_ROW_MAX = 10, WRONG_RETRY_AFTER_S = 60 };

typedef enum step step_fn(struct tunnel *t);

static void run(struct tunnel *t);
static void skip_to(struct tunnel *t, step_fn *step);

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
	tunnel_refuse(t, reason);
}

/* The step at hand waits, at most so long. */
static enum step wait_for(struct tunnel *t, unsigned ms, enum reason late)
{
	t->deadline_reason = late;
	if (deadline_set(&t->deadline, ms))
		return STEP_WAIT;
	tunnel_refuse(t, REASON_NO_MEMORY);
	return STEP_DONE;
}

/* --- the steps --- */

static enum step screen(struct tunnel *t)
{
	struct request *r = t->request;

	if (r->fault != REASON_OK)
		return tunnel_refuse_step(t, r->fault);
	if (r->form == HEAD_FORM_ORIGIN || r->form == HEAD_FORM_ASTERISK) {
		struct response response = local_answer(r, t->env->draining);

		if (response.reason != REASON_OK && response.reason != REASON_DRAINING)
			return tunnel_refuse_step(t, response.reason);
		request_respond(r, &response); /* health checks are not accesses: no record */
		t->request = NULL;
		tunnel_bury(t);
		return STEP_DONE;
	}
	if (t->env->draining)
		return tunnel_refuse_step(t, REASON_DRAINING);
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
		tunnel_refuse(t, verdict);
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
		return tunnel_refuse_step(t, REASON_AUTH_REQUIRED);
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
		return tunnel_refuse_step(t, verdict);
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
		return tunnel_refuse_step(t, response.reason);
	request_respond(t->request, &response);
	t->request = NULL;
	tunnel_bury(t);
	return STEP_DONE;
}

static enum step authorise_name(struct tunnel *t)
{
	struct policy_question q = question(t);
	struct policy_answer answer = policy_name(t->env->policy, &q);

	if (answer.verdict == POLICY_DENY) {
		t->access.rule = answer.rule;
		return tunnel_refuse_step(t, answer.reason);
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
		tunnel_refuse(t, verdict);
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
		return take_addresses(t, &host->addr, 1) ? STEP_NEXT : tunnel_refuse_step(t, REASON_NO_MEMORY);
	verdict = dns_resolve(t->env->dns, host->text, on_resolved, t, &result, &t->query);
	if (t->query)
		return wait_for(t, t->conf->deadlines.resolve, REASON_DNS_TIMEOUT);
	if (verdict == REASON_OK && !take_addresses(t, result.addr, result.count))
		verdict = REASON_NO_MEMORY;
	return verdict == REASON_OK ? STEP_NEXT : tunnel_refuse_step(t, verdict);
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
	return tunnel_refuse_step(t, refusal.reason);
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
		tunnel_refuse(t, verdict);
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
		tunnel_refuse(t, REASON_NO_MEMORY);
}

static enum step dial(struct tunnel *t)
{
	if (!start_dial(t))
		return tunnel_refuse_step(t, REASON_NO_MEMORY);
	return wait_for(t, t->conf->deadlines.dial, REASON_DIAL_TIMEOUT);
}

static void on_recorded(void *ctx, enum reason verdict)
{
	struct tunnel *t;

	OBJ_CAST(t, ctx, TUNNEL_MAGIC);
	t->record = NULL;
	if (verdict != REASON_OK) {
		t->recorded = false;
		tunnel_refuse(t, verdict);
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
		return tunnel_refuse_step(t, verdict);
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

	return verdict == REASON_OK ? STEP_NEXT : tunnel_refuse_step(t, verdict);
}

/* --- an idle connection --- */

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
void tunnel_repeat(struct tunnel *t)
{
	(void)tunnel_leave_exchange(t, REASON_TARGET_RESET);
	stream_attach(t->client, NULL, NULL);
	t->reused = false;
	t->access.local.len = 0;
	if (!take_addresses(t, &t->access.address, 1)) {
		tunnel_refuse(t, REASON_NO_MEMORY);
		return;
	}
	t->choice->rules[0] = t->access.rule;
	t->at = 0;
	skip_to(t, dial);
	go_on(t);
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
	tunnel_forward,
	tunnel_relay,
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
			tunnel_end(t, t->exchange && exchange_can_refuse(t->exchange) ? verdict : REASON_REVOKED);
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

/* A query may hold what only the target is to know. That there was one is told. */
static struct slice without_query(struct slice target)
{
	const char *mark = target.n > 0 ? memchr(target.p, '?', target.n) : NULL;

	return mark ? (struct slice){ target.p, (size_t)(mark + 1 - target.p) } : target;
}

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
	deadline_init(&t->progress, env->loop, tunnel_on_progress, t);
	loop_task_init(&t->redial, on_redial, t);
	audit_id(t->access.id);
	t->access.client = r->client;
	t->access.protocol = r->protocol;
	t->access.method = r->method_text;
	t->access.target = without_query(r->target);
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
		tunnel_finish(t, reason);
	else
		tunnel_vanish(t, reason);
}

const struct http_handler tunnel_handler = { begin, gone };
