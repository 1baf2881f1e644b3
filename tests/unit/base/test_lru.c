/* The bounded map against a naive model, its growth, its failures. */
#include "adit/base/lru.h"
#include "adit/base/mem.h"
#include "base/lru_priv.h"

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <string.h>

struct drops {
	size_t count;
	int last;
};

static void on_drop(void *value, void *ctx)
{
	struct drops *drops = ctx;

	drops->count++;
	memcpy(&drops->last, value, sizeof(drops->last));
}

static int *put(struct lru *map, const char *key, int number)
{
	int *value = lru_put(map, key, strlen(key), NULL);

	cr_assert_not_null(value);
	*value = number;
	return value;
}

static int *get(struct lru *map, const char *key)
{
	return lru_get(map, key, strlen(key));
}

Test(lru, put_get_drop)
{
	struct drops drops = { 0, 0 };
	struct lru *map = lru_new(2, sizeof(int), on_drop, &drops);
	bool fresh = false;
	int *a;

	a = lru_put(map, "a", 1, &fresh);
	cr_expect(fresh);
	cr_expect_eq(*a, 0, "born zeroed");
	*a = 1;
	cr_expect_eq(lru_put(map, "a", 1, &fresh), a);
	cr_expect_not(fresh);
	put(map, "b", 2);
	cr_expect_eq(get(map, "a"), a); /* b is the oldest now */
	put(map, "c", 3);
	cr_expect_eq(drops.count, 1);
	cr_expect_eq(drops.last, 2);
	cr_expect_null(get(map, "b"));
	cr_expect_eq(*(int *)lru_peek(map, "a", 1), 1); /* a look only: a stays the oldest */
	put(map, "d", 4);
	cr_expect_eq(drops.last, 1);
	cr_expect_eq(lru_count(map), 2);
	lru_remove(map, get(map, "d"));
	cr_expect_eq(drops.last, 4);
	cr_expect_eq(lru_count(map), 1);
	lru_free(map);
	cr_expect_eq(drops.count, 4);
	lru_free(NULL);
}

Test(lru, keys_are_bytes)
{
	struct lru *map = lru_new(10, sizeof(int), NULL, NULL);
	int *empty = lru_put(map, "", 0, NULL), *nul = lru_put(map, "\0", 1, NULL), *two = lru_put(map, "\0\0", 2, NULL);
	char big[5000];
	size_t size;

	memset(big, 'x', sizeof(big));
	cr_assert(empty && nul && two);
	cr_expect_eq(lru_count(map), 3);
	cr_expect_eq(lru_get(map, NULL, 0), empty);
	cr_expect_eq(lru_get(map, "\0", 1), nul);
	cr_assert_not_null(lru_put(map, big, sizeof(big), NULL));
	cr_expect_null(lru_get(map, big, sizeof(big) - 1));
	big[4999] = 'y';
	cr_expect_null(lru_get(map, big, sizeof(big)));
	big[4999] = 'x';
	cr_expect_eq(memcmp(lru_key(lru_get(map, big, sizeof(big)), &size), big, sizeof(big)), 0);
	cr_expect_eq(size, sizeof(big));
	lru_key(empty, &size);
	cr_expect_eq(size, 0);
	lru_free(map);
}

Test(lru, values_are_aligned)
{
	for (size_t size = 0; size < 40; size++) {
		struct lru *map = lru_new(4, size, NULL, NULL);

		for (int i = 0; i < 4; i++) {
			void *value = lru_put(map, &i, sizeof(i), NULL);

			cr_expect_eq((uintptr_t)value % _Alignof(max_align_t), 0);
		}
		lru_free(map);
	}
}

Test(lru, walk)
{
	struct lru *map = lru_new(4, sizeof(int), NULL, NULL);
	int order[4], n = 0;

	cr_expect_null(lru_oldest(map));
	put(map, "a", 1);
	put(map, "b", 2);
	put(map, "c", 3);
	put(map, "d", 4);
	get(map, "b");
	for (int *v = lru_oldest(map), *next; v; v = next) {
		next = lru_newer(map, v);
		order[n++] = *v;
		if (*v % 2)
			lru_remove(map, v);
	}
	cr_expect_eq(n, 4);
	cr_expect_arr_eq(order, ((int[]){ 1, 3, 4, 2 }), sizeof(order));
	cr_expect_eq(lru_count(map), 2);
	cr_expect_eq(*(int *)lru_oldest(map), 4);
	lru_free(map);
}

/* Random work beside a model that remembers the turn of each key's last use. */
Test(lru, model)
{
	enum { KEYS = 600, MAX = 200, TURNS = 60000 };
	static int value[KEYS], used[KEYS]; /* used 0: absent */
	struct lru *map = lru_new(MAX, sizeof(int), NULL, NULL);
	size_t count = 0;
	unsigned seed = 7;

	for (int turn = 1; turn <= TURNS; turn++) {
		int key = (int)((seed = seed * 1103515245u + 12345u) >> 16) % KEYS, what = (int)(seed >> 8) % 8;
		int *v;

		if (what < 4) {
			bool fresh;

			v = lru_put(map, &key, sizeof(key), &fresh);
			cr_assert_not_null(v);
			cr_assert_eq(fresh, used[key] == 0);
			if (fresh && count == MAX) {
				int oldest = -1;

				for (int k = 0; k < KEYS; k++)
					if (used[k] && (oldest < 0 || used[k] < used[oldest]))
						oldest = k;
				used[oldest] = 0;
				count--;
			}
			count += fresh;
			used[key] = turn;
			*v = value[key] = turn;
		} else if (what < 7) {
			v = what == 4 ? lru_peek(map, &key, sizeof(key)) : lru_get(map, &key, sizeof(key));
			cr_assert_eq(v != NULL, used[key] != 0);
			if (v) {
				cr_assert_eq(*v, value[key]);
				if (what != 4)
					used[key] = turn;
			}
		} else if ((v = lru_peek(map, &key, sizeof(key)))) {
			lru_remove(map, v);
			used[key] = 0;
			count--;
		}
		cr_assert_eq(lru_count(map), count);
	}
	lru_free(map);
}

/* Every entry is found at every size, also while the bucket array is being moved. */
Test(lru, growth)
{
	enum { MAX = 5000 };
	struct lru *map = lru_new(MAX, sizeof(int), NULL, NULL);

	for (int i = 0; i < MAX; i++) {
		int *v = lru_put(map, &i, sizeof(i), NULL);

		cr_assert_not_null(v);
		*v = i;
		for (int k = i; k >= 0; k -= 1 + i / 16)
			cr_assert_eq(*(int *)lru_peek(map, &k, sizeof(k)), k);
	}
	cr_expect_eq(lru_count(map), MAX);
	for (int i = 0; i < MAX; i++) {
		int *v = lru_peek(map, &i, sizeof(i));

		cr_assert(v && *v == i);
		lru_remove(map, v);
		cr_assert_null(lru_peek(map, &i, sizeof(i)));
	}
	lru_free(map);
}

static bool fill(unsigned long nth, bool forever)
{
	struct lru *map;
	int failed = 0;

	mem_fault_set(nth, forever);
	map = lru_new(40, sizeof(int), NULL, NULL);
	for (int i = 0; map && i < 100; i++) {
		size_t before = lru_count(map);
		bool hit = mem_fault_hit();
		int *v = lru_put(map, &i, sizeof(i), NULL);

		if (v) {
			*v = i;
			cr_assert_eq(*(int *)lru_get(map, &i, sizeof(i)), i);
		} else {
			cr_assert(mem_fault_hit() || hit);
			cr_assert_eq(lru_count(map), before, "a failure costs no entry");
			failed++;
		}
	}
	if (map && !forever)
		cr_assert_leq(failed, 1);
	bool hit = mem_fault_hit();
	mem_fault_set(0, false);
	lru_free(map);
	return hit;
}

Test(lru, out_of_memory)
{
	unsigned long n = 1;

	while (fill(n, false) && fill(n, true))
		n++;
	cr_expect_gt(n, 100);
}

Test(lru, at_least_one)
{
	struct lru *map = lru_new(0, sizeof(int), NULL, NULL);

	put(map, "a", 1);
	put(map, "b", 2);
	cr_expect_eq(lru_count(map), 1);
	cr_expect_not_null(get(map, "b"));
	lru_free(map);
}

/* Our SipHash-2-4 and OpenSSL's agree for all lengths around the word size, under random keys. */
Test(lru, siphash)
{
	EVP_MAC *mac = EVP_MAC_fetch(NULL, "SIPHASH", NULL);
	uint8_t data[100];
	size_t size = 8;
	OSSL_PARAM params[] = { OSSL_PARAM_construct_size_t("size", &size), OSSL_PARAM_construct_end() };

	cr_assert_not_null(mac);
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (uint8_t)(i * 37 + 11);
	for (size_t n = 0; n + 16 < sizeof(data); n++) {
		EVP_MAC_CTX *ctx = EVP_MAC_CTX_new(mac);
		const uint8_t *key = data + n;
		uint8_t out[8];
		uint64_t theirs = 0;
		size_t got;

		cr_assert(EVP_MAC_init(ctx, key, 16, params));
		cr_assert(EVP_MAC_update(ctx, data, n));
		cr_assert(EVP_MAC_final(ctx, out, &got, sizeof(out)));
		for (int i = 7; i >= 0; i--)
			theirs = theirs << 8 | out[i];
		cr_expect_eq(lru_siphash(key, data, n), theirs, "%zu bytes", n);
		EVP_MAC_CTX_free(ctx);
	}
	EVP_MAC_free(mac);
	cr_expect_eq(lru_hash("abc", 3), lru_hash("abc", 3));
	cr_expect_neq(lru_hash("abc", 3), lru_hash("abd", 3));
}
