/* The inside of the auth service, shared by auth.c (questions), auth_task.c (who waits for which hash) and auth_pool.c
 * (threads and their lines).
 *
 *     auth_check --cached, throttled, overlong--> verdict at once
 *        |
 *        +-- job --> task of its key --> fair line of its lane --> pool thread --> letter to the job's loop --> done
 *                    (may have many jobs)
 *
 * Locks, outermost first: a shard's (verdicts, tasks in flight, their jobs), the pool's (lines). The settings' lock and
 * those of throttle and known are leaves. None is held while hashing, sending or freeing. */
#ifndef ADIT_AUTH_AUTH_PRIV_H
#define ADIT_AUTH_AUTH_PRIV_H

#include "adit/auth/auth.h"
#include "auth/fair_priv.h"
#include "auth/hash_priv.h"
#include "auth/throttle_priv.h"
#include "auth/verdict_priv.h"

#include <pthread.h>

enum {
	AUTH_MAGIC = OBJ_MAGIC('a', 'u', 't', 'h'),
	AUTH_SHARDS = 16,
	AUTH_BUCKETS = 64, /* per shard, of tasks in flight */
	AUTH_TABLE_ENTRIES = 65536, /* budgets of each kind, and users whose places are known */
};

enum auth_lane { AUTH_LANE_KNOWN, AUTH_LANE_STRANGERS, AUTH_LANE_COUNT };

/* Replaced by tests. */
struct auth_hooks {
	enum hash_verdict (*hash)(const struct user *user, const char *password, size_t n);
	uint64_t (*now_ms)(void);
};

struct auth_shard {
	pthread_mutex_t lock;
	struct verdicts *verdicts;
	LIST_HEAD(, auth_task) in_flight[AUTH_BUCKETS];
};

/* One hash to do. Belongs to its shard until it is finished or withdrawn. */
struct auth_task {
	uint32_t magic;
	LIST_ENTRY(auth_task) in_flight;
	struct auth_shard *shard;
	struct verdict_key key;
	TAILQ_HEAD(auth_jobs, auth_job) jobs; /* shard's lock */
	struct fair_item waiting[AUTH_LANE_COUNT]; /* pool's lock; in one line at most, in none once taken out */
	struct cidr prefix; /* of who asked first: pays for a wrong password even after going away */
	char user[CREDENTIALS_USER_MAX + 1];
	size_t user_n, password_n;
	char password[]; /* burned right after the hash */
};

/* One question of one loop. */
struct auth_job {
	uint32_t magic;
	TAILQ_ENTRY(auth_job) entry;
	struct loop_letter letter;
	struct auth *auth;
	struct auth_task *task;
	struct auth_shard *shard;
	struct loop *loop;
	auth_done_fn *done;
	void *ctx;
	struct cidr prefix;
	bool sent; /* shard's lock: the letter is on its way, the job is the loop's */
	bool cancelled; /* loop's thread, after sent */
	enum reason verdict;
	unsigned retry_after_s;
};

struct auth_settings {
	struct throttle_rules throttle;
	struct verdict_ttl ttl;
};

struct auth_thread {
	struct auth *auth;
	pthread_t id;
	enum auth_serves { AUTH_SERVES_KNOWN, AUTH_SERVES_STRANGERS_FIRST, AUTH_SERVES_IN_TURN } serves;
};

struct auth {
	uint32_t magic;
	struct auth_hooks hooks;
	struct verdict_secret secret;
	struct auth_shard shard[AUTH_SHARDS];
	struct throttle *throttle;
	struct known *known;

	pthread_mutex_t settings_lock;
	struct auth_settings settings;
	struct users *users;

	pthread_mutex_t pool_lock;
	pthread_cond_t for_known, for_any;
	struct fair *lane[AUTH_LANE_COUNT];
	unsigned places; /* in both lines together */
	bool stopping, last_was_known;
	struct auth_thread *threads;
	size_t thread_count;
};

struct auth *auth_new_hooked(const struct conf *conf, struct users *users,
	const struct auth_hooks *hooks) ADIT_MUST_USE;
struct auth_settings auth_settings_now(struct auth *auth);
struct users *auth_users_now(struct auth *auth); /* a reference */
struct auth_shard *auth_shard_of(struct auth *auth, const struct verdict_key *key);
static inline uint64_t auth_digest(const struct verdict_key *key)
{
	uint64_t digest;

	memcpy(&digest, key->bytes + 8, sizeof(digest));
	return digest;
}

/* --- auth_task.c --- */
struct auth_task *auth_task_new(struct auth_shard *shard, const struct verdict_key *key, const struct credentials *c,
	const struct cidr *prefix) ADIT_MUST_USE;
void auth_task_free(struct auth_task *task); /* burns the password */
/* With the shard locked: */
struct auth_task *auth_task_find(struct auth_shard *shard, const struct verdict_key *key);
void auth_task_publish(struct auth_task *task);
void auth_task_add(struct auth_task *task, struct auth_job *job);
/* A pool thread has taken the task: answers those who by now are over budget. False: nobody waits, the task is gone. */
bool auth_task_weed(struct auth *auth, struct auth_task *task);
/* Hashes against the line in force, burns the password, remembers, charges, answers; the task is gone. */
void auth_task_run(struct auth *auth, struct auth_task *task);
/* Answers everybody without a hash; the task, which is in no line, is gone. */
void auth_task_dismiss(struct auth_task *task, enum reason verdict);

/* --- auth_pool.c --- */
bool auth_pool_init(struct auth *auth, const struct conf *conf) ADIT_MUST_USE; /* lines; no threads yet */
bool auth_pool_start(struct auth *auth, unsigned threads) ADIT_MUST_USE; /* 0: half the cores */
void auth_pool_stop(struct auth *auth);
void auth_pool_fini(struct auth *auth);
void auth_pool_resize(struct auth *auth, unsigned places);
/* Puts the task in its line. REASON_OK; AUTH_BUSY when its own is the longest prefix of a full line; AUTH_ERROR when
 * stopping; NO_MEMORY. *victim: another task that had to leave, to be dismissed by the caller without any lock. */
enum reason auth_pool_submit(struct auth *auth, struct auth_task *task, bool known,
	struct auth_task **victim) ADIT_MUST_USE;
/* A known user has joined: to the line of these, unless a thread has the task already. */
void auth_pool_promote(struct auth *auth, struct auth_task *task, const struct cidr *prefix);
/* True: taken out of its line. False: it was in none, somebody else has it. */
bool auth_pool_withdraw(struct auth *auth, struct auth_task *task) ADIT_MUST_USE;
size_t auth_pool_waiting(struct auth *auth, enum auth_lane lane);

#endif
