/* Budgets of distinct wrong passwords (throttle_priv.h says which).
 *
 * A bucket is one number: the time at which it will be empty. Each failure moves it on by window/N; it is full while it
 * lies further ahead than N-1 such steps. Only wrong answers are charged, so a hundred colleagues behind one address
 * who log in at once are never held up; how far guesses in flight can overshoot is bounded by asking again right before
 * each hash. */
#include "auth/throttle_priv.h"

#include "adit/base/mem.h"
#include "auth/shards_priv.h"

enum { THROTTLE_MAGIC = OBJ_MAGIC('t', 'h', 'r', 't'), US_PER_MS = 1000, US_PER_S = 1000000 };

struct bucket { uint64_t empty_at_us; };

struct pair {
	struct bucket bucket;
	uint64_t seen[THROTTLE_REMEMBERED]; /* digests; 0: none */
	unsigned next;
};

struct throttle {
	uint32_t magic;
	struct shards pairs, prefixes, users;
};

struct pace { uint64_t step_us, reach_us; };

struct throttle *throttle_new(size_t entries)
{
	struct throttle *t = mem_alloc(sizeof(*t));
	bool ok;

	if (!t)
		return NULL;
	OBJ_INIT(t, THROTTLE_MAGIC);
	ok = shards_init(&t->pairs, entries, sizeof(struct pair));
	ok = shards_init(&t->prefixes, entries, sizeof(struct bucket)) && ok;
	ok = shards_init(&t->users, entries, sizeof(struct bucket)) && ok;
	if (ok)
		return t;
	throttle_free(t);
	return NULL;
}

void throttle_free(struct throttle *t)
{
	if (!t)
		return;
	OBJ_CHECK(t, THROTTLE_MAGIC);
	shards_fini(&t->pairs);
	shards_fini(&t->prefixes);
	shards_fini(&t->users);
	OBJ_FINI(t);
	mem_free(t);
}

/* --- one bucket ------------------------------------------------------------------------------------------------ */

static struct pace pace_of(uint64_t count, uint64_t span_ms)
{
	uint64_t step = count ? span_ms * US_PER_MS / count : 0;

	step = step ? step : 1;
	return (struct pace){ .step_us = step, .reach_us = count * step };
}

/* Microseconds until one more fits; 0: now. */
static uint64_t bucket_wait(const struct bucket *b, struct pace pace, uint64_t now_us)
{
	uint64_t full_at = now_us + pace.reach_us, empty_at;

	if (!b)
		return 0;
	/* Filled under larger limits of an earlier configuration: now it is merely full. */
	empty_at = b->empty_at_us < full_at ? b->empty_at_us : full_at;
	return empty_at > full_at - pace.step_us ? empty_at - (full_at - pace.step_us) : 0;
}

static void bucket_charge(struct bucket *b, struct pace pace, uint64_t now_us)
{
	uint64_t full_at = now_us + pace.reach_us;

	b->empty_at_us = (b->empty_at_us > now_us ? b->empty_at_us : now_us) + pace.step_us;
	if (b->empty_at_us > full_at)
		b->empty_at_us = full_at;
}

static struct pace pair_pace(const struct throttle_rules *r)
{
	return pace_of(r->failures, r->window_ms);
}

static struct pace prefix_pace(const struct throttle_rules *r)
{
	return pace_of(r->per_prefix.count, r->per_prefix.per_ms);
}

static struct pace user_pace(const struct throttle_rules *r)
{
	return pace_of((uint64_t)r->failures * THROTTLE_USER_FAILURES, (uint64_t)r->window_ms * THROTTLE_USER_WINDOW);
}

/* --- the three together ---------------------------------------------------------------------------------------- */

static uint64_t wait_for(struct shards *s, uint64_t hash, struct pace pace, uint64_t now_us)
{
	/* a pair's first member is its bucket */
	uint64_t wait = bucket_wait(shards_lock_get(s, hash), pace, now_us);

	shards_unlock(s, hash);
	return wait;
}

static uint64_t greater(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

static const struct slice nobody = { NULL, 0 };

unsigned throttle_check(struct throttle *t, const struct throttle_rules *rules, const struct throttle_who *who,
	uint64_t now_ms)
{
	uint64_t now_us = now_ms * US_PER_MS, wait = 0;

	OBJ_CHECK(t, THROTTLE_MAGIC);
	if (!rules->on)
		return 0;
	if (rules->failures > 0) {
		wait = wait_for(&t->pairs, shards_hash(&who->prefix, who->user), pair_pace(rules), now_us);
		if (!who->known)
			wait = greater(wait, wait_for(&t->users, shards_hash(NULL, who->user), user_pace(rules), now_us));
	}
	if (rules->per_prefix.count > 0)
		wait = greater(wait, wait_for(&t->prefixes, shards_hash(&who->prefix, nobody), prefix_pace(rules), now_us));
	return (unsigned)((wait + US_PER_S - 1) / US_PER_S);
}

/* Is it a new one? Then it is remembered, and the pair has paid. */
static bool charge_pair(struct throttle *t, const struct throttle_rules *rules, const struct throttle_who *who,
	uint64_t digest, uint64_t now_us)
{
	uint64_t hash = shards_hash(&who->prefix, who->user);
	struct pair *pair = shards_lock_put(&t->pairs, hash);
	bool counted = true;

	for (size_t i = 0; pair && i < THROTTLE_REMEMBERED; i++)
		if (pair->seen[i] == digest)
			counted = false;
	if (pair && counted) {
		pair->seen[pair->next++ % THROTTLE_REMEMBERED] = digest;
		if (rules->failures > 0)
			bucket_charge(&pair->bucket, pair_pace(rules), now_us);
	}
	shards_unlock(&t->pairs, hash);
	return counted;
}

static void charge(struct shards *s, uint64_t hash, struct pace pace, uint64_t now_us)
{
	struct bucket *bucket = shards_lock_put(s, hash);

	if (bucket)
		bucket_charge(bucket, pace, now_us);
	shards_unlock(s, hash);
}

void throttle_charge(struct throttle *t, const struct throttle_rules *rules, const struct throttle_who *who,
	uint64_t digest, uint64_t now_ms)
{
	uint64_t now_us = now_ms * US_PER_MS;

	OBJ_CHECK(t, THROTTLE_MAGIC);
	if (!rules->on || !charge_pair(t, rules, who, digest ? digest : 1, now_us))
		return;
	if (rules->per_prefix.count > 0)
		charge(&t->prefixes, shards_hash(&who->prefix, nobody), prefix_pace(rules), now_us);
	if (rules->failures > 0 && !who->known)
		charge(&t->users, shards_hash(NULL, who->user), user_pace(rules), now_us);
}
