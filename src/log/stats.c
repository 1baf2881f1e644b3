/* The counters. Each has a cache line of its own: two workers that count different things must not wait for each
 * other. */
#include "adit/log/stats.h"

#include "adit/base/obj.h"

#include <stdalign.h>
#include <stdatomic.h>

enum { CACHE_LINE_BYTES = 64 };

struct counter {
	alignas(CACHE_LINE_BYTES) _Atomic long long n;
};

static struct counter counters[STAT_COUNT];
static struct counter reasons[REASON_COUNT];

static const char *const names[STAT_COUNT] = {
#define STAT(id, name, what) [STAT_##id] = name,
	STATS_TABLE
#undef STAT
};

void stats_add(enum stats_id s, long long n)
{
	ADIT_ASSERT((unsigned)s < STAT_COUNT);
	atomic_fetch_add_explicit(&counters[s].n, n, memory_order_relaxed);
}

long long stats_get(enum stats_id s)
{
	ADIT_ASSERT((unsigned)s < STAT_COUNT);
	return atomic_load_explicit(&counters[s].n, memory_order_relaxed);
}

const char *stats_name(enum stats_id s)
{
	ADIT_ASSERT((unsigned)s < STAT_COUNT);
	return names[s];
}

void stats_reason(enum reason r)
{
	ADIT_ASSERT((unsigned)r < REASON_COUNT);
	atomic_fetch_add_explicit(&reasons[r].n, 1, memory_order_relaxed);
}

long long stats_reason_get(enum reason r)
{
	ADIT_ASSERT((unsigned)r < REASON_COUNT);
	return atomic_load_explicit(&reasons[r].n, memory_order_relaxed);
}
