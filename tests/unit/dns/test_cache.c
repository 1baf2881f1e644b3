/* The answers kept: until when, how many, and when memory is short. */
#include "dns/dns_priv.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdio.h>

static struct dns_result result_of(const char *const *addresses)
{
	struct dns_result result = { .count = 0 };

	for (; *addresses; addresses++) {
		struct addr a;

		cr_assert(addr_from_literal(&a, slice_of(*addresses), 443));
		cr_assert(dns_result_add(&result, &a));
	}
	return result;
}

static void expect_same(const struct dns_result *a, const struct dns_result *b)
{
	cr_assert_eq(a->count, b->count);
	for (size_t i = 0; i < a->count; i++)
		cr_expect(addr_equal(&a->addr[i], &b->addr[i]));
}

Test(cache, keeps_until_the_time)
{
	struct dns_cache *cache = dns_cache_new(10);
	struct dns_result in = result_of((const char *const[]){ "2001:db8::1", "192.0.2.1", "::1", NULL }), out;
	struct dns_result none = { .count = 0 };
	enum reason verdict;

	cr_assert_not_null(cache);
	cr_expect_not(dns_cache_get(cache, "a", 0, &verdict, &out));
	dns_cache_put(cache, "a", REASON_OK, &in, 1000);
	dns_cache_put(cache, "b", REASON_NAME_UNKNOWN, &none, 1000);
	cr_assert(dns_cache_get(cache, "a", 999, &verdict, &out));
	cr_expect_eq(verdict, REASON_OK);
	expect_same(&in, &out);
	cr_assert(dns_cache_get(cache, "b", 999, &verdict, &out));
	cr_expect_eq(verdict, REASON_NAME_UNKNOWN);
	cr_expect_eq(out.count, 0);
	cr_expect_not(dns_cache_get(cache, "a", 1000, &verdict, &out));
	cr_expect_not(dns_cache_get(cache, "a", 999, &verdict, &out), "what is over is gone");

	/* The last word wins, in both directions. */
	dns_cache_put(cache, "b", REASON_OK, &in, 2000);
	cr_assert(dns_cache_get(cache, "b", 1500, &verdict, &out));
	expect_same(&in, &out);
	dns_cache_put(cache, "b", REASON_NAME_NO_ADDRESS, &none, 2000);
	cr_assert(dns_cache_get(cache, "b", 1500, &verdict, &out));
	cr_expect_eq(verdict, REASON_NAME_NO_ADDRESS);
	cr_expect_eq(out.count, 0);
	dns_cache_free(cache);
}

Test(cache, is_bounded)
{
	struct dns_cache *cache = dns_cache_new(3), *nothing = dns_cache_new(0);
	struct dns_result in = result_of((const char *const[]){ "192.0.2.1", NULL }), out;
	enum reason verdict;

	cr_assert(cache && nothing);
	for (int i = 0; i < 100; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%d", i);
		dns_cache_put(cache, name, REASON_OK, &in, 1000);
		cr_expect(dns_cache_get(cache, "n0", 1, &verdict, &out), "what is asked for stays");
	}
	cr_expect(dns_cache_get(cache, "n99", 1, &verdict, &out));
	cr_expect(dns_cache_get(cache, "n98", 1, &verdict, &out));
	cr_expect_not(dns_cache_get(cache, "n97", 1, &verdict, &out));
	dns_cache_put(nothing, "a", REASON_OK, &in, 1000);
	cr_expect_not(dns_cache_get(nothing, "a", 1, &verdict, &out));
	dns_cache_free(cache);
	dns_cache_free(nothing);
}

Test(cache, every_allocation_may_fail)
{
	struct dns_result in = result_of((const char *const[]){ "192.0.2.1", NULL }), out;
	bool hit = true;
	unsigned long n;

	for (n = 1; hit; n++) {
		struct dns_cache *cache;
		enum reason verdict;

		mem_fault_set(n, false);
		cache = dns_cache_new(10);
		if (cache) {
			dns_cache_put(cache, "a", REASON_OK, &in, 1000);
			if (dns_cache_get(cache, "a", 1, &verdict, &out))
				expect_same(&in, &out);
		}
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_assert(cache || hit);
		dns_cache_free(cache);
	}
	cr_expect_gt(n, 3);
}
