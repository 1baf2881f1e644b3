/* Budgets: what refills them, and what does not. */
#include "http/h2_guard.h"

#include <criterion/criterion.h>
#include <stdint.h>

static unsigned spend_all(struct h2_guard *g, enum h2_cost cost, unsigned long long now)
{
	unsigned n = 0;

	while (h2_guard_spend(g, cost, now))
		cr_assert_lt(++n, 100000u);
	return n;
}

Test(h2_guard, a_budget_is_spent_once)
{
	struct h2_guard g;

	h2_guard_init(&g, 1000);
	cr_assert_gt(spend_all(&g, H2_COST_RESET, 1000), 256u, "a browser that closes a page");
	cr_assert_not(h2_guard_spend(&g, H2_COST_OTHER, 1000));
	cr_assert_not(h2_guard_spend(&g, H2_COST_OTHER, 1000), "over budget stays over budget");
}

Test(h2_guard, time_refills_it_up_to_what_it_was)
{
	struct h2_guard g, fresh;
	unsigned full;

	h2_guard_init(&fresh, 0);
	g = fresh;
	full = spend_all(&g, H2_COST_PING, 0);
	cr_assert_gt(spend_all(&g, H2_COST_PING, 2000), 10u);
	cr_assert_eq(spend_all(&g, H2_COST_PING, 1000ull * 3600 * 24 * 365 * 100), full - 1, "less what was owed");
	/* looked at often, as with every frame: fractions of points are not lost for ever */
	g = fresh;
	(void)spend_all(&g, H2_COST_PING, 0);
	for (unsigned long long now = 1; now <= 1000; now++)
		(void)h2_guard_spend(&g, H2_COST_OTHER, now);
	cr_assert(h2_guard_spend(&g, H2_COST_OTHER, 60000));
}

Test(h2_guard, data_refills_it_up_to_what_it_was)
{
	struct h2_guard g;
	unsigned full;

	h2_guard_init(&g, 0);
	full = spend_all(&g, H2_COST_OTHER, 0);
	h2_guard_data(&g, 1);
	cr_assert_not(h2_guard_spend(&g, H2_COST_OTHER, 0), "a byte is not data enough");
	h2_guard_data(&g, 1024 * 1024);
	cr_assert_gt(spend_all(&g, H2_COST_OTHER, 0), 64u, "two for each frame of 16 KiB");
	h2_guard_data(&g, SIZE_MAX / 2);
	cr_assert_leq(spend_all(&g, H2_COST_OTHER, 0), full);
}

Test(h2_guard, everything_has_a_price)
{
	for (int cost = H2_COST_RESET; cost <= H2_COST_OTHER; cost++) {
		struct h2_guard g;
		unsigned n;

		h2_guard_init(&g, 0);
		n = spend_all(&g, (enum h2_cost)cost, 0);
		cr_assert(n >= 50 && n <= 5000, "%d: %u", cost, n);
	}
}
