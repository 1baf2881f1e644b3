/* The verdict cache and its keys. */
#include "auth/verdict_priv.h"

#include "adit/base/mem.h"

#include "component/failing.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

static const struct verdict_ttl ttl = { .right_ms = 3600000, .wrong_ms = 60000 };
static const uint64_t start_ms = 1000000;

static struct verdict_key key_of(const struct verdict_secret *secret, const char *user, const char *password, const struct user *line)
{
	struct verdict_key key;

	cr_assert(verdict_key(secret, slice_of(user), slice_of(password), line, &key));
	return key;
}

static bool same(struct verdict_key a, struct verdict_key b)
{
	return memcmp(&a, &b, sizeof(a)) == 0;
}

Test(verdict, keys)
{
	struct verdict_secret s, other;
	char hash[] = "$2y$04$2NBuKbFxuf6l4psKmxrOYOdv0y/4UXlbeZdYPY86vk4TXbJHeJOOm", long_password[128];
	char new_hash[] = "$2y$04$3NBuKbFxuf6l4psKmxrOYOdv0y/4UXlbeZdYPY86vk4TXbJHeJOOm";
	struct user line = { .hash = hash, .kind = HASH_BCRYPT }, changed = { .hash = new_hash, .kind = HASH_BCRYPT };
	struct user sha = { .hash = hash, .kind = HASH_SHA1 };

	cr_assert(verdict_secret_make(&s) && verdict_secret_make(&other));
	cr_expect(same(key_of(&s, "a", "b", &line), key_of(&s, "a", "b", &line)));
	cr_expect_not(same(key_of(&s, "a", "b", &line), key_of(&other, "a", "b", &line)));
	cr_expect_not(same(key_of(&s, "a", "b", &line), key_of(&s, "a", "c", &line)));
	cr_expect_not(same(key_of(&s, "a", "b", &line), key_of(&s, "ab", "", &line)));
	cr_expect_not(same(key_of(&s, "a", "b", &line), key_of(&s, "a", "b", &changed)));
	cr_expect_not(same(key_of(&s, "a", "b", &line), key_of(&s, "a", "b", NULL)));
	/* What bcrypt can not tell apart has one key; what others can has not. */
	memset(long_password, 'x', 100);
	long_password[100] = '\0';
	struct verdict_key whole = key_of(&s, "a", long_password, &line), whole_sha = key_of(&s, "a", long_password, &sha);
	long_password[99] = 'y';
	cr_expect(same(whole, key_of(&s, "a", long_password, &line)));
	cr_expect_not(same(whole_sha, key_of(&s, "a", long_password, &sha)));
	long_password[71] = 'y';
	cr_expect_not(same(whole, key_of(&s, "a", long_password, &line)));
	verdict_secret_burn(&s);
	verdict_secret_burn(&other);
}

static void no_report(void *ctx ADIT_UNUSED, unsigned line, const char *message)
{
	cr_expect_fail("line %u: %s", line, message);
}

Test(verdict, decoys_spread_over_the_lines_and_stay)
{
	char text[4096] = "";
	struct verdict_secret s;
	struct users *users, *none = users_parse(slice_of(""), no_report, NULL);
	unsigned hits[20] = { 0 };

	for (int i = 0; i < 20; i++)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "u%d:{SHA}hQ/ZuWUAEW6FZd0isN3mdFBgW1A=\n", i);
	users = users_parse(slice_of(text), no_report, NULL);
	cr_assert(users && none && verdict_secret_make(&s));
	for (int i = 0; i < 2000; i++) {
		char name[32];
		const struct user *line;

		snprintf(name, sizeof(name), "nobody%d", i);
		line = verdict_decoy(&s, users, slice_of(name));
		cr_assert_not_null(line);
		cr_expect_eq(line, verdict_decoy(&s, users, slice_of(name)));
		hits[line->line - 1]++;
	}
	for (int i = 0; i < 20; i++)
		cr_expect(hits[i] > 40 && hits[i] < 200, "line %d: %u of 2000", i, hits[i]);
	cr_expect_null(verdict_decoy(&s, none, slice_of("nobody")));
	users_unref(users);
	users_unref(none);
	verdict_secret_burn(&s);
}

static struct verdict_key number_key(uint32_t n)
{
	struct verdict_key key = { { 0 } };

	memcpy(key.bytes, &n, sizeof(n));
	return key;
}

Test(verdicts, each_for_its_time)
{
	struct verdicts *v = verdicts_new(10);
	struct verdict_key right = number_key(1), wrong = number_key(2), never = number_key(3);
	struct verdict_ttl off = { 0, 0 };

	verdicts_put(v, &right, true, start_ms);
	verdicts_put(v, &wrong, false, start_ms);
	cr_expect_eq(verdicts_get(v, &right, ttl, start_ms), VERDICT_RIGHT);
	cr_expect_eq(verdicts_get(v, &wrong, ttl, start_ms), VERDICT_WRONG);
	cr_expect_eq(verdicts_get(v, &never, ttl, start_ms), VERDICT_NONE);
	cr_expect_eq(verdicts_get(v, &right, ttl, start_ms - 5), VERDICT_RIGHT, "a clock read a little earlier");
	cr_expect_eq(verdicts_get(v, &wrong, ttl, start_ms + 59999), VERDICT_WRONG);
	cr_expect_eq(verdicts_get(v, &wrong, ttl, start_ms + 60000), VERDICT_NONE);
	cr_expect_eq(verdicts_get(v, &right, ttl, start_ms + 3599999), VERDICT_RIGHT, "looking does not prolong, nor does it end");
	cr_expect_eq(verdicts_get(v, &right, ttl, start_ms + 3600000), VERDICT_NONE);
	verdicts_put(v, &right, true, start_ms);
	cr_expect_eq(verdicts_get(v, &right, off, start_ms), VERDICT_NONE);
	verdicts_free(v);
}

Test(verdicts, wrong_ones_never_push_out_right_ones)
{
	struct verdicts *v = verdicts_new(100);

	for (uint32_t i = 0; i < 100; i++) {
		struct verdict_key key = number_key(i);

		verdicts_put(v, &key, true, start_ms);
	}
	for (uint32_t i = 100; i < 10000; i++) {
		struct verdict_key key = number_key(i);

		verdicts_put(v, &key, false, start_ms);
	}
	for (uint32_t i = 0; i < 100; i++) {
		struct verdict_key key = number_key(i);

		cr_expect_eq(verdicts_get(v, &key, ttl, start_ms), VERDICT_RIGHT);
	}
	struct verdict_key gone = number_key(100), kept = number_key(9999);
	cr_expect_eq(verdicts_get(v, &gone, ttl, start_ms), VERDICT_NONE);
	cr_expect_eq(verdicts_get(v, &kept, ttl, start_ms), VERDICT_WRONG);
	/* a smaller bound keeps the newest */
	cr_expect(verdicts_resize(v, 10));
	for (uint32_t i = 0; i < 100; i++) {
		struct verdict_key key = number_key(i);

		cr_expect_eq(verdicts_get(v, &key, ttl, start_ms), i < 90 ? VERDICT_NONE : VERDICT_RIGHT, "%u", i);
	}
	verdicts_free(v);
}

Test(verdicts, out_of_memory)
{
	bool hit = true;

	for (unsigned long nth = 1; hit; nth++) {
		struct verdict_key right = number_key(1), wrong = number_key(2);
		struct verdicts *v;

		mem_fault_set(nth, false);
		v = verdicts_new(10);
		if (v) {
			verdicts_put(v, &right, true, start_ms);
			verdicts_put(v, &wrong, false, start_ms);
			(void)verdicts_resize(v, 20);
			cr_expect_neq(verdicts_get(v, &right, ttl, start_ms), VERDICT_WRONG);
			cr_expect_neq(verdicts_get(v, &wrong, ttl, start_ms), VERDICT_RIGHT);
		}
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		verdicts_free(v);
	}
}

/* --- a library that fails -------------------------------------------------------------------------------------- */

Test(verdict, no_key_without_the_library)
{
	static const char lines[] = "a:{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=\n";
	struct users *users = users_parse(slice_of(lines), no_report, NULL);
	bool hit = true;

	cr_assert_not_null(users);
	for (unsigned long nth = 1; hit; nth++) {
		struct verdict_secret secret;
		struct verdict_key key;
		unsigned wanting = 0;

		failing_set(NULL, nth, ENOMEM);
		if (verdict_secret_make(&secret)) {
			wanting += !verdict_key(&secret, slice_of("a"), slice_of("b"), NULL, &key);
			wanting += !verdict_decoy(&secret, users, slice_of("nobody"));
		} else {
			cr_expect_null(secret.keyed);
			wanting++;
		}
		hit = failing_hit();
		failing_set(NULL, 0, 0);
		cr_expect_eq(wanting, hit, "call %lu", nth);
		verdict_secret_burn(&secret);
	}
	users_unref(users);
}
