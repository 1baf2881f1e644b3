/* Idle connections to targets.
 *
 *     by age:    oldest <-> ... <-> newest        expiry and the bound on all
 *     buckets:   hash of the key -> its entries   looking up, and the bound on one key
 *
 * What is hard: a target may close at any moment, also between the look and the next request. What is seen in time is
 * closed here; for the rest whoever takes one must be ready to do without (tunnel.c repeats its request once). */
#include "adit/dial/pool.h"

#include "adit/base/lru.h"
#include "adit/base/mem.h"
#include "adit/log/stats.h"

enum { BUCKETS = 256 };

#define ENTRY_MAGIC OBJ_MAGIC('p', 'o', 'o', 'l')

struct entry {
	uint32_t magic;
	struct pool *pool;
	TAILQ_ENTRY(entry) age, bucket;
	struct entries *in;
	struct stream *stream;
	struct addr address, local;
	unsigned long long until_ms;
	size_t key_n;
	char key[];
};
TAILQ_HEAD(entries, entry);

struct pool {
	struct loop *loop;
	struct entries by_age; /* oldest first */
	struct entries buckets[BUCKETS]; /* oldest first */
	size_t count;
	struct deadline expiry;
};

/* Port, user, NUL, host. */
static size_t key_bytes(const struct pool_key *key)
{
	return sizeof(key->port) + strlen(key->user) + 1 + strlen(key->host);
}

static void key_write(const struct pool_key *key, char *out)
{
	size_t user_n = strlen(key->user) + 1;

	memcpy(out, &key->port, sizeof(key->port));
	memcpy(out + sizeof(key->port), key->user, user_n);
	memcpy(out + sizeof(key->port) + user_n, key->host, strlen(key->host));
}

/* Takes it out of the pool; the stream is the caller's. */
static struct stream *release(struct entry *e)
{
	struct pool *pool = e->pool;
	struct stream *stream = e->stream;

	TAILQ_REMOVE(&pool->by_age, e, age);
	TAILQ_REMOVE(e->in, e, bucket);
	pool->count--;
	stats_dec(STAT_IDLE_TARGETS);
	loop_hold(pool->loop);
	stream_pause(stream, STREAM_PAUSE_IDLE);
	stream_attach(stream, NULL, NULL);
	OBJ_FINI(e);
	mem_free(e);
	return stream;
}

static void drop(struct entry *e, enum stream_close how)
{
	stream_close(release(e), how);
}

/* Nothing is due on an idle connection: whatever it is, the next response could not be trusted. */
static void on_news(void *ctx)
{
	struct entry *e;

	OBJ_CAST(e, ctx, ENTRY_MAGIC);
	drop(e, STREAM_CLOSE_ABORT);
}

static void nothing(void *ctx ADIT_UNUSED)
{
}

static const struct stream_handler idle_handler = { on_news, nothing, on_news };

static void on_expiry(void *ctx)
{
	struct pool *pool = ctx;
	unsigned long long now = loop_now_ms(pool->loop);
	struct entry *e;

	while ((e = TAILQ_FIRST(&pool->by_age)) && e->until_ms <= now)
		drop(e, STREAM_CLOSE_FLUSH);
	if (e)
		(void)deadline_set(&pool->expiry, (unsigned)(e->until_ms - now)); /* the timer is there already */
}

struct pool *pool_new(struct loop *loop)
{
	struct pool *pool = mem_alloc(sizeof(*pool));

	if (!pool)
		return NULL;
	pool->loop = loop;
	TAILQ_INIT(&pool->by_age);
	for (size_t i = 0; i < BUCKETS; i++)
		TAILQ_INIT(&pool->buckets[i]);
	deadline_init(&pool->expiry, loop, on_expiry, pool);
	return pool;
}

void pool_free(struct pool *pool)
{
	if (!pool)
		return;
	pool_empty(pool);
	deadline_fini(&pool->expiry);
	mem_free(pool);
}

static bool entry_is(const struct entry *e, const char *key, size_t n)
{
	return e->key_n == n && memcmp(e->key, key, n) == 0;
}

/* Makes room: for one of this key, and for one in all. */
static void make_room(struct pool *pool, const struct entry *fresh, unsigned connections)
{
	struct entry *oldest = NULL, *e;
	unsigned same = 0;

	TAILQ_FOREACH(e, fresh->in, bucket) {
		if (!entry_is(e, fresh->key, fresh->key_n))
			continue;
		same++;
		if (!oldest)
			oldest = e;
	}
	if (same >= POOL_PER_KEY)
		drop(oldest, STREAM_CLOSE_FLUSH);
	while (pool->count >= connections)
		drop(TAILQ_FIRST(&pool->by_age), STREAM_CLOSE_FLUSH);
}

void pool_put(struct pool *pool, const struct pool_key *key, const struct pool_limits *limits, struct stream *stream,
	const struct addr *address, const struct addr *local)
{
	size_t key_n = key_bytes(key);
	struct entry *e = NULL;

	if (limits->connections > 0 && !stream->eof && !stream->deaf && stream_fault(stream) == STREAM_FAULT_NONE)
		e = mem_alloc(sizeof(*e) + key_n);
	if (e && pool->expiry.at_ms == 0 && !deadline_set(&pool->expiry, limits->idle_ms)) {
		mem_free(e);
		e = NULL;
	}
	if (!e) {
		stream_close(stream, STREAM_CLOSE_FLUSH);
		return;
	}
	OBJ_INIT(e, ENTRY_MAGIC);
	e->pool = pool;
	e->stream = stream;
	e->address = *address;
	e->local = *local;
	e->until_ms = loop_now_ms(pool->loop) + limits->idle_ms;
	e->key_n = key_n;
	key_write(key, e->key);
	e->in = &pool->buckets[lru_hash(e->key, key_n) % BUCKETS];
	make_room(pool, e, limits->connections);
	TAILQ_INSERT_TAIL(&pool->by_age, e, age);
	TAILQ_INSERT_TAIL(e->in, e, bucket);
	pool->count++;
	stats_inc(STAT_IDLE_TARGETS);
	loop_release(pool->loop);
	stream_attach(stream, &idle_handler, e);
	stream_resume(stream, STREAM_PAUSE_IDLE | STREAM_PAUSE_PEER_FULL | STREAM_PAUSE_EOF);
}

static struct entry *newest(struct pool *pool, const char *key, size_t n)
{
	struct entry *e;

	TAILQ_FOREACH_REVERSE(e, &pool->buckets[lru_hash(key, n) % BUCKETS], entries, bucket)
		if (entry_is(e, key, n))
			return e;
	return NULL;
}

/* What has come on it may not have been told yet. */
static bool is_silent(struct stream *stream)
{
	char byte;
	size_t n;

	return stream_fault(stream) == STREAM_FAULT_NONE && stream_read(stream, &byte, 1, &n) == STREAM_IO_AGAIN;
}

struct stream *pool_take(struct pool *pool, const struct pool_key *key, struct addr *address, struct addr *local)
{
	size_t n = key_bytes(key);
	char *text = mem_alloc(n);
	struct stream *found = NULL;
	struct entry *e;

	if (!text)
		return NULL;
	key_write(key, text);
	while (!found && (e = newest(pool, text, n))) {
		*address = e->address;
		*local = e->local;
		found = release(e);
		if (!is_silent(found)) {
			stream_close(found, STREAM_CLOSE_ABORT);
			found = NULL;
		}
	}
	mem_free(text);
	return found;
}

size_t pool_count(const struct pool *pool)
{
	return pool->count;
}

void pool_empty(struct pool *pool)
{
	while (!TAILQ_EMPTY(&pool->by_age))
		drop(TAILQ_FIRST(&pool->by_age), STREAM_CLOSE_ABORT);
	deadline_clear(&pool->expiry);
}
