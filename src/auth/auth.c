/* The questions to the auth service, and its life.
 *
 * The order of answers is the promise: a cached right password first, whatever the throttle says; then the throttle;
 * then what is wrong without a hash (cached, overlong, nobody in the file), which counts like any other wrong password;
 * and only then a place in the line. */
#include "auth/auth_priv.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"

enum {
	PREFIX_V4_BITS = 32,
	PREFIX_V6_BITS = 64,
};

/* Not a verdict: the pool has to be asked. */
static const enum reason undecided = REASON_COUNT;

/* --- settings -------------------------------------------------------------------------------------------------- */

static struct auth_settings settings_of(const struct conf *conf)
{
	return (struct auth_settings){
		.throttle = { conf->auth.throttle, conf->auth.failures, conf->auth.window_ms, conf->auth.per_prefix },
		.ttl = { conf->auth.cache_ms, conf->auth.wrong_cache_ms },
	};
}

static size_t entries_per_shard(const struct conf *conf)
{
	return (conf->auth.cache_entries + AUTH_SHARDS - 1) / AUTH_SHARDS;
}

struct auth_settings auth_settings_now(struct auth *auth)
{
	struct auth_settings settings;

	pthread_mutex_lock(&auth->settings_lock);
	settings = auth->settings;
	pthread_mutex_unlock(&auth->settings_lock);
	return settings;
}

struct users *auth_users_now(struct auth *auth)
{
	struct users *users;

	pthread_mutex_lock(&auth->settings_lock);
	users = users_ref(auth->users);
	pthread_mutex_unlock(&auth->settings_lock);
	return users;
}

struct auth_shard *auth_shard_of(struct auth *auth, const struct verdict_key *key)
{
	return &auth->shard[key->bytes[0] % AUTH_SHARDS];
}

void auth_reconfigure(struct auth *auth, const struct conf *conf, struct users *users)
{
	struct users *old;

	OBJ_CHECK(auth, AUTH_MAGIC);
	pthread_mutex_lock(&auth->settings_lock);
	old = auth->users;
	auth->users = users;
	auth->settings = settings_of(conf);
	pthread_mutex_unlock(&auth->settings_lock);
	users_unref(old);
	auth_pool_resize(auth, conf->auth.queue);
	for (size_t i = 0; i < AUTH_SHARDS; i++) {
		pthread_mutex_lock(&auth->shard[i].lock);
		/* Without memory the old bound stays in force until the next time. */
		(void)verdicts_resize(auth->shard[i].verdicts, entries_per_shard(conf));
		pthread_mutex_unlock(&auth->shard[i].lock);
	}
}

bool auth_knows(struct auth *auth, struct slice user)
{
	struct users *users = auth_users_now(auth);
	bool known = users_find(users, user) != NULL;

	users_unref(users);
	return known;
}

/* --- a question ------------------------------------------------------------------------------------------------ */

struct attempt {
	struct auth *auth;
	const struct credentials *credentials;
	struct auth_settings settings;
	struct users *users;
	struct verdict_key key;
	struct auth_shard *shard;
	struct throttle_who who;
	uint64_t now_ms;
};

static bool attempt_begin(struct attempt *a, struct auth *auth, const struct credentials *c, const struct addr *client)
{
	struct slice user = { c->user, c->user_n }, password = { c->password, c->password_n };

	*a = (struct attempt){ .auth = auth, .credentials = c, .now_ms = auth->hooks.now_ms() };
	pthread_mutex_lock(&auth->settings_lock);
	a->settings = auth->settings;
	a->users = users_ref(auth->users);
	pthread_mutex_unlock(&auth->settings_lock);
	a->who.prefix = addr_prefix(client, PREFIX_V4_BITS, PREFIX_V6_BITS);
	a->who.user = user;
	if (!verdict_key(&auth->secret, user, password, users_find(a->users, user), &a->key)) {
		users_unref(a->users);
		return false;
	}
	a->shard = auth_shard_of(auth, &a->key);
	return true;
}

static enum reason attempt_right(const struct attempt *a)
{
	known_note(a->auth->known, &a->who.prefix, a->who.user, a->now_ms);
	return REASON_OK;
}

static enum reason attempt_wrong(const struct attempt *a)
{
	throttle_charge(a->auth->throttle, &a->settings.throttle, &a->who, auth_digest(&a->key), a->now_ms);
	return REASON_AUTH_FAILED;
}

static enum reason answer_at_once(struct attempt *a, unsigned *retry_after_s)
{
	enum verdict cached;

	pthread_mutex_lock(&a->shard->lock);
	cached = verdicts_get(a->shard->verdicts, &a->key, a->settings.ttl, a->now_ms);
	pthread_mutex_unlock(&a->shard->lock);
	if (cached == VERDICT_RIGHT)
		return attempt_right(a);
	a->who.known = known_is(a->auth->known, &a->who.prefix, a->who.user, a->now_ms);
	*retry_after_s = throttle_check(a->auth->throttle, &a->settings.throttle, &a->who, a->now_ms);
	if (*retry_after_s > 0)
		return REASON_AUTH_THROTTLED;
	if (cached == VERDICT_WRONG || a->credentials->password_n > CREDENTIALS_PASSWORD_MAX || users_count(a->users) == 0)
		return attempt_wrong(a);
	return undecided;
}

/* Joins the task of the same credentials, or puts `task` in line; the shard is locked. What is not used stays the
 * caller's. `undecided`: the job waits, and *task is NULL when it does so in the new one. */
static enum reason wait_for_hash(const struct attempt *a, struct auth_task **task, struct auth_job *job,
	struct auth_task **victim)
{
	struct auth_task *other;
	enum verdict cached = verdicts_get(a->shard->verdicts, &a->key, a->settings.ttl, a->now_ms);
	enum reason submitted;

	if (cached != VERDICT_NONE) /* found out since the first look */
		return cached == VERDICT_RIGHT ? attempt_right(a) : attempt_wrong(a);
	other = auth_task_find(a->shard, &a->key);
	if (other) {
		auth_task_add(other, job);
		if (a->who.known)
			auth_pool_promote(a->auth, other, &a->who.prefix);
		return undecided;
	}
	submitted = auth_pool_submit(a->auth, *task, a->who.known, victim);
	if (submitted != REASON_OK)
		return submitted;
	/* A thread may have it already, and waits for our lock. */
	auth_task_publish(*task);
	auth_task_add(*task, job);
	*task = NULL;
	return undecided;
}

static enum reason ask_pool(const struct attempt *a, struct auth_job *job)
{
	struct auth_task *task = auth_task_new(a->shard, &a->key, a->credentials, &a->who.prefix), *victim = NULL;
	enum reason verdict;

	if (!task)
		return REASON_NO_MEMORY;
	pthread_mutex_lock(&a->shard->lock);
	verdict = wait_for_hash(a, &task, job, &victim);
	pthread_mutex_unlock(&a->shard->lock);
	auth_task_free(task);
	if (victim)
		auth_task_dismiss(victim, REASON_AUTH_BUSY);
	return verdict;
}

enum reason auth_check(struct auth *auth, struct loop *loop, const struct credentials *c, const struct addr *client,
	auth_done_fn *done, void *ctx, struct auth_job **job, unsigned *retry_after_s)
{
	enum reason verdict;
	struct auth_job *asked;
	struct attempt a;

	OBJ_CHECK(auth, AUTH_MAGIC);
	ADIT_ASSERT(c->user_n <= CREDENTIALS_USER_MAX && c->password_n <= CREDENTIALS_PASSWORD_MAX + 1);
	*job = NULL;
	*retry_after_s = 0;
	if (!attempt_begin(&a, auth, c, client))
		return REASON_NO_MEMORY;
	verdict = answer_at_once(&a, retry_after_s);
	if (verdict != undecided)
		goto out;
	verdict = REASON_NO_MEMORY;
	asked = mem_alloc(sizeof(*asked));
	if (!asked)
		goto out;
	asked->auth = auth;
	asked->loop = loop;
	asked->done = done;
	asked->ctx = ctx;
	asked->prefix = a.who.prefix;
	verdict = ask_pool(&a, asked);
	if (verdict == undecided) {
		loop_hold(loop);
		*job = asked;
		verdict = REASON_AUTH_ERROR; /* means nothing beside a job; whoever takes it for an answer lets nobody in */
	} else {
		mem_free(asked);
	}
out:
	users_unref(a.users);
	return verdict;
}

/* --- life ------------------------------------------------------------------------------------------------------ */

static bool auth_init(struct auth *auth, const struct conf *conf)
{
	bool ok = true;

	for (size_t i = 0; i < AUTH_SHARDS; i++) {
		struct auth_shard *shard = &auth->shard[i];

		pthread_mutex_init(&shard->lock, NULL);
		for (size_t j = 0; j < AUTH_BUCKETS; j++)
			LIST_INIT(&shard->in_flight[j]);
		shard->verdicts = verdicts_new(entries_per_shard(conf));
		ok = ok && shard->verdicts;
	}
	pthread_mutex_init(&auth->settings_lock, NULL);
	auth->settings = settings_of(conf);
	ok = auth_pool_init(auth, conf) && ok;
	auth->throttle = throttle_new(AUTH_TABLE_ENTRIES);
	auth->known = known_new(AUTH_TABLE_ENTRIES);
	return ok && auth->throttle && auth->known && verdict_secret_make(&auth->secret);
}

struct auth *auth_new_hooked(const struct conf *conf, struct users *users, const struct auth_hooks *hooks)
{
	struct auth *auth = mem_alloc(sizeof(*auth));

	if (!auth) {
		users_unref(users);
		return NULL;
	}
	OBJ_INIT(auth, AUTH_MAGIC);
	auth->hooks = *hooks;
	auth->users = users;
	if (auth_init(auth, conf) && auth_pool_start(auth, conf->auth.threads))
		return auth;
	auth_free(auth);
	return NULL;
}

struct auth *auth_new(const struct conf *conf, struct users *users)
{
	static const struct auth_hooks real = { hash_check, clock_mono_ms };

	return auth_new_hooked(conf, users, &real);
}

void auth_stop(struct auth *auth)
{
	OBJ_CHECK(auth, AUTH_MAGIC);
	auth_pool_stop(auth);
}

void auth_free(struct auth *auth)
{
	if (!auth)
		return;
	OBJ_CHECK(auth, AUTH_MAGIC);
	ADIT_ASSERT(auth->thread_count == 0);
	for (size_t i = 0; i < AUTH_SHARDS; i++) {
		verdicts_free(auth->shard[i].verdicts);
		pthread_mutex_destroy(&auth->shard[i].lock);
	}
	auth_pool_fini(auth);
	throttle_free(auth->throttle);
	known_free(auth->known);
	users_unref(auth->users);
	pthread_mutex_destroy(&auth->settings_lock);
	verdict_secret_burn(&auth->secret);
	OBJ_FINI(auth);
	mem_free(auth);
}
