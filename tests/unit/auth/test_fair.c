/* The fair line: whose turn it is, who is the longest, and that nothing is lost on the way. */
#include "auth/fair_priv.h"

#include "adit/base/mem.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ITEMS_MAX = 64, OUT_SIZE = 1024 };

struct thing {
	struct fair_item item;
	char name[16];
};

struct line {
	struct fair *fair;
	struct thing things[ITEMS_MAX];
	size_t count;
};

static struct cidr host_of(const char *address)
{
	struct addr a;

	cr_assert(addr_from_literal(&a, slice_of(address), 0), "%s", address);
	return addr_prefix(&a, 32, 64);
}

static struct thing *push(struct line *line, const char *name, const char *address)
{
	struct thing *thing = &line->things[line->count++];
	struct cidr host = host_of(address);

	snprintf(thing->name, sizeof(thing->name), "%s", name);
	cr_assert(fair_push(line->fair, &thing->item, &host));
	return thing;
}

static const char *name_of(struct fair_item *item)
{
	return item ? OBJ_OF(item, struct thing, item)->name : "-";
}

/* Everything in the order it comes out, "a1 b1 a2 ". */
static const char *drain(struct line *line, char *out)
{
	struct fair_item *item;

	*out = '\0';
	while ((item = fair_pop(line->fair)))
		snprintf(out + strlen(out), OUT_SIZE - strlen(out), "%s ", name_of(item));
	cr_expect_eq(fair_count(line->fair), 0);
	return out;
}

Test(fair, networks_take_turns_and_hosts_within_them)
{
	struct line line = { .fair = fair_new() };
	char out[OUT_SIZE];

	push(&line, "a1", "10.0.0.1");
	push(&line, "a2", "10.0.0.1");
	push(&line, "a3", "10.0.0.1");
	push(&line, "A1", "10.0.0.2"); /* same /24, other host */
	push(&line, "b1", "10.0.1.1");
	push(&line, "b2", "10.0.1.1");
	push(&line, "c1", "10.0.2.1");
	cr_expect_str_eq(drain(&line, out), "a1 b1 c1 A1 b2 a2 a3 ");
	fair_free(line.fair);
}

Test(fair, a_whole_24_delays_another_by_one_item_a_round)
{
	struct line line = { .fair = fair_new() };
	char name[16], address[32], out[OUT_SIZE];

	for (int i = 0; i < 40; i++) {
		snprintf(name, sizeof(name), "x%d", i);
		snprintf(address, sizeof(address), "127.0.1.%d", i);
		push(&line, name, address);
	}
	push(&line, "y1", "127.0.2.1");
	push(&line, "y2", "127.0.2.1");
	drain(&line, out);
	cr_expect_eq(strncmp(out, "x0 y1 x1 y2 x2 ", 15), 0, "%s", out);
	fair_free(line.fair);
}

Test(fair, ipv6_by_64_then_48)
{
	struct line line = { .fair = fair_new() };
	char out[OUT_SIZE];

	push(&line, "a1", "2001:db8:1:1::1");
	push(&line, "a2", "2001:db8:1:1::2"); /* the same /64 */
	push(&line, "A1", "2001:db8:1:2::1"); /* the same /48 */
	push(&line, "b1", "2001:db8:2::1");
	push(&line, "v4", "192.0.2.1");
	cr_expect_str_eq(drain(&line, out), "a1 b1 v4 A1 a2 ");
	fair_free(line.fair);
}

Test(fair, who_comes_again_goes_to_the_end)
{
	struct line line = { .fair = fair_new() };

	push(&line, "a1", "10.0.0.1");
	push(&line, "a2", "10.0.0.1");
	push(&line, "b1", "10.0.1.1");
	cr_expect_str_eq(name_of(fair_pop(line.fair)), "a1");
	push(&line, "c1", "10.0.2.1");
	cr_expect_str_eq(name_of(fair_pop(line.fair)), "b1");
	push(&line, "b2", "10.0.1.1"); /* had left: last again */
	cr_expect_str_eq(name_of(fair_pop(line.fair)), "a2");
	cr_expect_str_eq(name_of(fair_pop(line.fair)), "c1");
	cr_expect_str_eq(name_of(fair_pop(line.fair)), "b2");
	cr_expect_null(fair_pop(line.fair));
	fair_free(line.fair);
}

Test(fair, longest)
{
	struct line line = { .fair = fair_new() };
	char out[OUT_SIZE];

	cr_expect_null(fair_longest(line.fair));
	push(&line, "a1", "10.0.0.1");
	cr_expect_str_eq(name_of(fair_longest(line.fair)), "a1");
	push(&line, "b1", "10.0.1.1");
	cr_expect_str_eq(name_of(fair_longest(line.fair)), "b1", "as long: the newest");
	push(&line, "a2", "10.0.0.2");
	push(&line, "a3", "10.0.0.2");
	push(&line, "b2", "10.0.1.1");
	push(&line, "b3", "10.0.1.1");
	cr_expect_str_eq(name_of(fair_longest(line.fair)), "b3");
	push(&line, "a4", "10.0.0.1"); /* its network is the longest, both hosts as long: the newest */
	cr_expect_str_eq(name_of(fair_longest(line.fair)), "a4");
	push(&line, "a5", "10.0.0.2");
	push(&line, "a6", "10.0.0.1");
	push(&line, "a7", "10.0.0.2");
	cr_expect_str_eq(name_of(fair_longest(line.fair)), "a7");
	cr_expect_eq(fair_count(line.fair), 10);
	drain(&line, out);
	fair_free(line.fair);
}

Test(fair, remove_anywhere)
{
	struct line line = { .fair = fair_new() };
	struct thing *a1 = push(&line, "a1", "10.0.0.1"), *a2 = push(&line, "a2", "10.0.0.1");
	struct thing *b1 = push(&line, "b1", "10.0.1.1");
	char out[OUT_SIZE];

	fair_remove(line.fair, &a1->item);
	cr_expect_null(a1->item.host);
	fair_remove(line.fair, &b1->item); /* with it goes its network */
	cr_expect_str_eq(drain(&line, out), "a2 ");
	cr_expect_null(a2->item.host);
	fair_free(line.fair);
}

Test(fair, out_of_memory)
{
	struct cidr host = host_of("10.0.0.1"), sibling = host_of("10.0.0.2");
	bool hit = true;

	for (unsigned long nth = 1; hit; nth++) {
		struct thing one = { .name = "one" }, two = { .name = "two" };
		struct fair *fair;

		mem_fault_set(nth, false);
		fair = fair_new();
		if (fair) {
			bool first = fair_push(fair, &one.item, &host), second = fair_push(fair, &two.item, &sibling);

			cr_expect_eq(fair_count(fair), (size_t)first + (size_t)second);
			cr_expect(first || !one.item.host);
			while (fair_pop(fair))
				;
		}
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		fair_free(fair);
	}
}

/* Against a list: whatever is done, everything comes out exactly once. */
Test(fair, random_walk)
{
	struct line line = { .fair = fair_new() };
	static struct thing things[2000];
	static unsigned host_of_thing[2000];
	size_t pushed = 0, out = 0;

	srand(7);
	while (out < 2000) {
		if (pushed < 2000 && rand() % 3 != 0) {
			unsigned h = (unsigned)(rand() % 12);
			char address[32];
			struct cidr host;

			snprintf(address, sizeof(address), "10.0.%u.%u", h / 4, h % 4);
			host = host_of(address);
			host_of_thing[pushed] = h;
			cr_assert(fair_push(line.fair, &things[pushed++].item, &host));
		} else if (fair_count(line.fair) > 0) {
			struct fair_item *item = rand() % 4 == 0 ? fair_longest(line.fair) : NULL;
			size_t index;

			if (item)
				fair_remove(line.fair, item);
			else
				item = fair_pop(line.fair);
			index = (size_t)(OBJ_OF(item, struct thing, item) - things);
			cr_assert_lt(index, pushed);
			cr_assert_neq(host_of_thing[index], 99, "came out twice");
			host_of_thing[index] = 99;
			out++;
		}
		cr_assert_eq(fair_count(line.fair), pushed - out);
	}
	fair_free(line.fair);
}
