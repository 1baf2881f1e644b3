/* One hash and all who wait for it.
 *
 * Hard part: who frees what. A task belongs to its shard's table from publish on; it leaves by exactly one of three
 * ways: a thread ran it, the full line or the end of the service dismissed it, or the last one who waited went away
 * while it stood in line. A job belongs to its task until `sent` is set under the shard's lock, from then on to its
 * loop, where alone it is freed; so a cancel on the loop's thread either finds it in the task or knows that its letter
 * is on the way. */
#include "auth/auth_priv.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"

enum {
	TASK_MAGIC = OBJ_MAGIC('t', 'a', 's', 'k'),
	JOB_MAGIC = OBJ_MAGIC('a', 'j', 'o', 'b'),
	HASH_ROUNDS = 3, /* a line that changes under our hands is looked at again */
};

struct auth_task *auth_task_new(struct auth_shard *shard, const struct verdict_key *key, const struct credentials *c,
	const struct cidr *prefix)
{
	struct auth_task *task = mem_alloc(sizeof(*task) + c->password_n + 1);

	if (!task)
		return NULL;
	OBJ_INIT(task, TASK_MAGIC);
	TAILQ_INIT(&task->jobs);
	task->shard = shard;
	task->key = *key;
	task->prefix = *prefix;
	memcpy(task->user, c->user, c->user_n);
	task->user_n = c->user_n;
	memcpy(task->password, c->password, c->password_n);
	task->password_n = c->password_n;
	return task;
}

void auth_task_free(struct auth_task *task)
{
	if (!task)
		return;
	OBJ_CHECK(task, TASK_MAGIC);
	ADIT_ASSERT(TAILQ_EMPTY(&task->jobs));
	mem_burn(task->password, task->password_n);
	OBJ_FINI(task);
	mem_free(task);
}

static size_t bucket_of(const struct verdict_key *key)
{
	return key->bytes[1] % AUTH_BUCKETS;
}

struct auth_task *auth_task_find(struct auth_shard *shard, const struct verdict_key *key)
{
	struct auth_task *task;

	LIST_FOREACH(task, &shard->in_flight[bucket_of(key)], in_flight)
		if (memcmp(task->key.bytes, key->bytes, sizeof(key->bytes)) == 0)
			return task;
	return NULL;
}

void auth_task_publish(struct auth_task *task)
{
	OBJ_CHECK(task, TASK_MAGIC);
	LIST_INSERT_HEAD(&task->shard->in_flight[bucket_of(&task->key)], task, in_flight);
}

void auth_task_add(struct auth_task *task, struct auth_job *job)
{
	OBJ_CHECK(task, TASK_MAGIC);
	OBJ_INIT(job, JOB_MAGIC);
	job->task = task;
	job->shard = task->shard;
	TAILQ_INSERT_TAIL(&task->jobs, job, entry);
}

/* --- answers --------------------------------------------------------------------------------------------------- */

static void on_letter(void *ctx)
{
	struct auth_job *job, taken;

	OBJ_CAST(job, ctx, JOB_MAGIC);
	taken = *job;
	OBJ_FINI(job);
	mem_free(job);
	loop_release(taken.loop);
	if (!taken.cancelled)
		taken.done(taken.ctx, taken.verdict, taken.retry_after_s);
}

/* Takes a job from its task; the shard is locked. */
static void release(struct auth_task *task, struct auth_job *job, struct auth_jobs *to)
{
	TAILQ_REMOVE(&task->jobs, job, entry);
	TAILQ_INSERT_TAIL(to, job, entry);
	job->task = NULL;
	job->sent = true;
}

/* After loop_send a job may be gone: everything else about it comes before. */
static void send_all(struct auth_jobs *jobs)
{
	while (!TAILQ_EMPTY(jobs)) {
		struct auth_job *job = TAILQ_FIRST(jobs);

		TAILQ_REMOVE(jobs, job, entry);
		loop_send(job->loop, &job->letter, on_letter, job);
	}
}

/* Out of the table, its jobs into `jobs`. */
static void unpublish(struct auth_task *task, struct auth_jobs *jobs)
{
	pthread_mutex_lock(&task->shard->lock);
	LIST_REMOVE(task, in_flight);
	while (!TAILQ_EMPTY(&task->jobs))
		release(task, TAILQ_FIRST(&task->jobs), jobs);
	pthread_mutex_unlock(&task->shard->lock);
}

void auth_task_dismiss(struct auth_task *task, enum reason verdict)
{
	struct auth_jobs jobs = TAILQ_HEAD_INITIALIZER(jobs);
	struct auth_job *job;

	OBJ_CHECK(task, TASK_MAGIC);
	unpublish(task, &jobs);
	auth_task_free(task);
	TAILQ_FOREACH(job, &jobs, entry)
		job->verdict = verdict;
	send_all(&jobs);
}

void auth_cancel(struct auth_job *job)
{
	struct auth_task *task, *withdrawn = NULL;
	struct auth_shard *shard;
	bool sent;

	if (!job)
		return;
	OBJ_CHECK(job, JOB_MAGIC);
	shard = job->shard;
	pthread_mutex_lock(&shard->lock);
	sent = job->sent;
	if (!sent) {
		task = job->task;
		TAILQ_REMOVE(&task->jobs, job, entry);
		/* Nobody wants to know: no hash, unless it has begun. */
		if (TAILQ_EMPTY(&task->jobs) && auth_pool_withdraw(job->auth, task)) {
			LIST_REMOVE(task, in_flight);
			withdrawn = task;
		}
	}
	pthread_mutex_unlock(&shard->lock);
	auth_task_free(withdrawn);
	if (sent) {
		job->cancelled = true;
		return;
	}
	loop_release(job->loop);
	OBJ_FINI(job);
	mem_free(job);
}

/* --- on a pool thread ------------------------------------------------------------------------------------------ */

static struct slice user_of(const struct auth_task *task)
{
	return (struct slice){ task->user, task->user_n };
}

static struct throttle_who who(struct auth *auth, const struct auth_task *task, const struct cidr *prefix,
	uint64_t now_ms)
{
	return (struct throttle_who){ *prefix, user_of(task), known_is(auth->known, prefix, user_of(task), now_ms) };
}

bool auth_task_weed(struct auth *auth, struct auth_task *task)
{
	struct auth_jobs throttled = TAILQ_HEAD_INITIALIZER(throttled);
	struct auth_settings settings = auth_settings_now(auth);
	uint64_t now_ms = auth->hooks.now_ms();
	struct auth_job *job, *next;
	bool nobody;

	OBJ_CHECK(task, TASK_MAGIC);
	pthread_mutex_lock(&task->shard->lock);
	for (job = TAILQ_FIRST(&task->jobs); job; job = next) {
		struct throttle_who w = who(auth, task, &job->prefix, now_ms);

		next = TAILQ_NEXT(job, entry);
		job->retry_after_s = throttle_check(auth->throttle, &settings.throttle, &w, now_ms);
		if (job->retry_after_s > 0) {
			job->verdict = REASON_AUTH_THROTTLED;
			release(task, job, &throttled);
		}
	}
	nobody = TAILQ_EMPTY(&task->jobs);
	if (nobody)
		LIST_REMOVE(task, in_flight);
	pthread_mutex_unlock(&task->shard->lock);
	if (nobody)
		auth_task_free(task);
	send_all(&throttled);
	return !nobody;
}

static bool same_line(const struct user *a, const struct user *b)
{
	return a && b ? strcmp(a->hash, b->hash) == 0 : !a && !b;
}

/* One hash against `users`: *key is what the verdict may be remembered under. */
static enum hash_verdict hash_once(struct auth *auth, const struct auth_task *task, const struct users *users,
	const struct user *line, struct verdict_key *key)
{
	struct slice password = { task->password, task->password_n };
	const struct user *pays = line ? line : verdict_decoy(&auth->secret, users, user_of(task));
	enum hash_verdict verdict = HASH_WRONG;

	if (!verdict_key(&auth->secret, user_of(task), password, line, key))
		return HASH_FAILED;
	if (pays) {
		stats_inc(STAT_HASHES);
		verdict = auth->hooks.hash(pays, task->password, task->password_n);
	}
	return !line && verdict == HASH_RIGHT ? HASH_WRONG : verdict;
}

/* The verdict on the line in force when the hash ends: whoever was taken out of the file while waiting is out. */
static enum hash_verdict hash_current(struct auth *auth, struct auth_task *task, struct verdict_key *key)
{
	enum hash_verdict verdict = HASH_FAILED;
	bool settled = false;

	for (int round = 0; round < HASH_ROUNDS && !settled; round++) {
		struct users *users = auth_users_now(auth), *after;
		const struct user *line = users_find(users, user_of(task));

		verdict = hash_once(auth, task, users, line, key);
		after = auth_users_now(auth);
		settled = after == users || same_line(line, users_find(after, user_of(task)));
		users_unref(after);
		users_unref(users);
	}
	mem_burn(task->password, task->password_n);
	return settled ? verdict : HASH_FAILED;
}

static void remember(struct auth *auth, const struct verdict_key *key, bool right, uint64_t now_ms)
{
	struct auth_shard *shard = auth_shard_of(auth, key);

	pthread_mutex_lock(&shard->lock);
	verdicts_put(shard->verdicts, key, right, now_ms);
	pthread_mutex_unlock(&shard->lock);
}

static void charge(struct auth *auth, const struct auth_task *task, const struct cidr *prefix,
	const struct verdict_key *key, uint64_t now_ms)
{
	struct auth_settings settings = auth_settings_now(auth);
	struct throttle_who w = who(auth, task, prefix, now_ms);

	throttle_charge(auth->throttle, &settings.throttle, &w, auth_digest(key), now_ms);
}

void auth_task_run(struct auth *auth, struct auth_task *task)
{
	static const enum reason reasons[] = {
		[HASH_WRONG] = REASON_AUTH_FAILED, [HASH_RIGHT] = REASON_OK, [HASH_FAILED] = REASON_AUTH_ERROR
	};
	struct auth_jobs jobs = TAILQ_HEAD_INITIALIZER(jobs);
	struct verdict_key key;
	enum hash_verdict verdict = hash_current(auth, task, &key);
	uint64_t now_ms = auth->hooks.now_ms();
	struct auth_job *job;

	/* Remembered before it leaves the table: who comes in between must not hash again. */
	if (verdict != HASH_FAILED)
		remember(auth, &key, verdict == HASH_RIGHT, now_ms);
	unpublish(task, &jobs);
	if (verdict == HASH_WRONG)
		charge(auth, task, &task->prefix, &key, now_ms);
	TAILQ_FOREACH(job, &jobs, entry) {
		job->verdict = reasons[verdict];
		if (verdict == HASH_WRONG)
			charge(auth, task, &job->prefix, &key, now_ms);
		else if (verdict == HASH_RIGHT)
			known_note(auth->known, &job->prefix, user_of(task), now_ms);
	}
	auth_task_free(task);
	send_all(&jobs);
}
