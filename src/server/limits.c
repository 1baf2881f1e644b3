/* Admission limits.
 *
 * Totals are atomics. What is counted per client network (IPv4 /32, IPv6 /64) lies in bounded maps, sharded by the
 * network so that workers rarely meet at a lock, which is held for a look-up. A network that falls out of a full map is
 * forgotten: its connections still count in the totals. */
#include "server/limits.h"

#include "adit/base/clock.h"
#include "adit/base/lru.h"
#include "adit/base/mem.h"
#include "adit/log/stats.h"

#include <pthread.h>
#include <stdatomic.h>

enum { SHARDS = 16, NETWORKS_PER_SHARD = 4096 };

/* How a client looks that gives HTTP/2 up each time (docs/configuration.md, "Browsers over HTTP/2"): so many
 * connections without a request, each right after the other. Browsers also open several at once, and use one; who only
 * looks whether the proxy is there comes at intervals. */
enum { UNUSED_MOST = 6, UNUSED_OVERLAP_MS = 20, UNUSED_GAP_MS = 1000, DOUBTS_MS = 5000 };

struct network {
	unsigned unauthenticated;
	double handshakes; /* tokens left in the bucket */
	uint64_t refilled_ms; /* 0: the bucket was not in use and is full */
	unsigned unused; /* HTTP/2 connections without a request */
	uint64_t unused_ms; /* when the last of them ended */
};

struct shard {
	pthread_mutex_t lock;
	struct lru *networks;
};

struct limits {
	atomic_uint connections, unauthenticated;
	struct shard shards[SHARDS];
};

struct limits *limits_new(void)
{
	struct limits *l = mem_alloc(sizeof(*l));

	if (!l)
		return NULL;
	for (size_t i = 0; i < SHARDS; i++) {
		pthread_mutex_init(&l->shards[i].lock, NULL);
		l->shards[i].networks = lru_new(NETWORKS_PER_SHARD, sizeof(struct network), NULL, NULL);
		if (!l->shards[i].networks) {
			limits_free(l);
			return NULL;
		}
	}
	return l;
}

void limits_free(struct limits *l)
{
	if (!l)
		return;
	for (size_t i = 0; i < SHARDS; i++) {
		if (l->shards[i].networks) {
			lru_free(l->shards[i].networks);
			pthread_mutex_destroy(&l->shards[i].lock);
		}
	}
	mem_free(l);
}

static struct cidr network_of(const struct addr *client)
{
	return addr_prefix(client, 32, 64);
}

static struct shard *shard_of(struct limits *l, const struct cidr *key)
{
	return &l->shards[lru_hash(key, sizeof(*key)) % SHARDS];
}

static void refill(struct network *n, const struct conf_rate *rate, bool fresh)
{
	uint64_t now = clock_mono_ms();

	if (fresh)
		n->handshakes = rate->count;
	else
		n->handshakes += (double)(now - n->refilled_ms) * rate->count / rate->per_ms;
	if (n->handshakes > rate->count)
		n->handshakes = rate->count;
	n->refilled_ms = now;
}

static enum reason enter_network(struct limits *l, const struct conf *conf, const struct addr *client)
{
	const struct conf_rate *rate = &conf->limits.handshakes_per_prefix;
	unsigned most = conf->limits.unauthenticated_per_prefix;
	struct cidr key = network_of(client);
	struct shard *shard = shard_of(l, &key);
	enum reason verdict = REASON_OK;
	struct network *n;
	bool fresh;

	pthread_mutex_lock(&shard->lock);
	n = lru_put(shard->networks, &key, sizeof(key), &fresh);
	if (!n) {
		verdict = REASON_NO_MEMORY;
	} else {
		if (rate->count > 0)
			refill(n, rate, fresh || n->refilled_ms == 0);
		else
			n->refilled_ms = 0;
		if (most > 0 && n->unauthenticated >= most)
			verdict = REASON_LIMIT_PREFIX;
		else if (rate->count > 0 && n->handshakes < 1)
			verdict = REASON_LIMIT_HANDSHAKES;
		if (verdict == REASON_OK) {
			n->unauthenticated++;
			if (rate->count > 0)
				n->handshakes -= 1;
		}
	}
	pthread_mutex_unlock(&shard->lock);
	return verdict;
}

static void leave_network(struct limits *l, const struct addr *client)
{
	struct cidr key = network_of(client);
	struct shard *shard = shard_of(l, &key);
	struct network *n;

	pthread_mutex_lock(&shard->lock);
	n = lru_peek(shard->networks, &key, sizeof(key));
	if (n && n->unauthenticated > 0)
		n->unauthenticated--;
	pthread_mutex_unlock(&shard->lock);
}

/* Adds one unless that would pass `most` (0: no limit). */
static bool count_up(atomic_uint *counter, unsigned most)
{
	unsigned before = atomic_fetch_add(counter, 1);

	if (most == 0 || before < most)
		return true;
	atomic_fetch_sub(counter, 1);
	return false;
}

enum reason limits_enter(struct limits *l, const struct conf *conf, const struct addr *client)
{
	enum reason verdict;

	if (!count_up(&l->connections, conf->limits.connections))
		return REASON_LIMIT_CONNECTIONS;
	if (!count_up(&l->unauthenticated, conf->limits.unauthenticated)) {
		atomic_fetch_sub(&l->connections, 1);
		return REASON_LIMIT_UNAUTHENTICATED;
	}
	verdict = enter_network(l, conf, client);
	if (verdict != REASON_OK) {
		atomic_fetch_sub(&l->connections, 1);
		atomic_fetch_sub(&l->unauthenticated, 1);
		return verdict;
	}
	stats_inc(STAT_CONNECTIONS);
	stats_inc(STAT_UNAUTHENTICATED);
	return REASON_OK;
}

void limits_authenticated(struct limits *l, const struct addr *client)
{
	atomic_fetch_sub(&l->unauthenticated, 1);
	stats_dec(STAT_UNAUTHENTICATED);
	leave_network(l, client);
}

void limits_leave(struct limits *l, const struct addr *client, bool authenticated)
{
	if (!authenticated)
		limits_authenticated(l, client);
	atomic_fetch_sub(&l->connections, 1);
	stats_dec(STAT_CONNECTIONS);
}

void limits_unused_http2(struct limits *l, const struct addr *client, uint64_t began_ms)
{
	struct cidr key = network_of(client);
	struct shard *shard = shard_of(l, &key);
	uint64_t now = clock_mono_ms();
	struct network *n;

	pthread_mutex_lock(&shard->lock);
	n = lru_peek(shard->networks, &key, sizeof(key));
	if (n && n->unused > 0 && began_ms > n->unused_ms + UNUSED_GAP_MS)
		n->unused = 0;
	if (n && (n->unused == 0 || began_ms + UNUSED_OVERLAP_MS >= n->unused_ms)) {
		n->unused++;
		n->unused_ms = now;
	}
	pthread_mutex_unlock(&shard->lock);
}

bool limits_doubts_http2(struct limits *l, const struct addr *client)
{
	struct cidr key = network_of(client);
	struct shard *shard = shard_of(l, &key);
	const struct network *n;
	bool doubts;

	pthread_mutex_lock(&shard->lock);
	n = lru_peek(shard->networks, &key, sizeof(key));
	doubts = n && n->unused >= UNUSED_MOST && clock_mono_ms() - n->unused_ms <= DOUBTS_MS;
	pthread_mutex_unlock(&shard->lock);
	return doubts;
}
