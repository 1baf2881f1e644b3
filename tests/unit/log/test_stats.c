/* Counters: names, sums over threads. */
#include "adit/log/stats.h"

#include <criterion/criterion.h>
#include <ctype.h>
#include <pthread.h>
#include <string.h>

Test(stats, names_are_plain_and_unique)
{
	for (int i = 0; i < STAT_COUNT; i++) {
		const char *name = stats_name((enum stats_id)i);

		cr_assert(name && *name);
		for (const char *p = name; *p; p++)
			cr_assert(islower((unsigned char)*p) || *p == '_', "%s", name);
		for (int k = 0; k < i; k++)
			cr_assert(strcmp(name, stats_name((enum stats_id)k)) != 0, "%s", name);
	}
}

Test(stats, gauges_go_up_and_down)
{
	stats_inc(STAT_TUNNELS);
	stats_inc(STAT_TUNNELS);
	stats_dec(STAT_TUNNELS);
	stats_add(STAT_BYTES_UP, 5000000000LL);
	stats_reason(REASON_DENIED);
	cr_assert_eq(stats_get(STAT_TUNNELS), 1);
	cr_assert_eq(stats_get(STAT_BYTES_UP), 5000000000LL);
	cr_assert_eq(stats_get(STAT_BYTES_DOWN), 0);
	cr_assert_eq(stats_reason_get(REASON_DENIED), 1);
	cr_assert_eq(stats_reason_get(REASON_OK), 0);
}

static void *count(void *unused)
{
	for (int i = 0; i < 20000; i++) {
		stats_inc(STAT_ACCEPTED);
		stats_reason(REASON_AUTH_FAILED);
	}
	return unused;
}

Test(stats, nothing_is_lost_between_threads)
{
	pthread_t threads[4];

	for (int i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&threads[i], NULL, count, NULL), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(stats_get(STAT_ACCEPTED), 80000);
	cr_assert_eq(stats_reason_get(REASON_AUTH_FAILED), 80000);
}
