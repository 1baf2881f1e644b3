/* Deadlines under both clocks. */
#include "adit/loop/loop.h"

#include "component/turning.h"

static struct loop *loop;
static char trail[64];
static size_t trail_n;

static void setup(void)
{
	loop = loop_new_manual();
	cr_assert_not_null(loop);
}

static void teardown(void)
{
	loop_free(loop);
}

TestSuite(deadline, .init = setup, .fini = teardown, .timeout = 60);

struct wait {
	struct deadline deadline;
	char name;
	unsigned long long at_ms;
	unsigned fired;
	bool finish, again;
};

static void on_deadline(void *ctx)
{
	struct wait *w = ctx;

	trail[trail_n++] = w->name;
	w->at_ms = loop_now_ms(loop);
	w->fired++;
	cr_assert_eq(w->deadline.at_ms, 0ull, "not set any more when it fires");
	if (w->finish)
		deadline_fini(&w->deadline);
	else if (w->again)
		cr_assert(deadline_set(&w->deadline, 10));
}

static void start(struct wait *w, char name, unsigned ms)
{
	*w = (struct wait){ .name = name };
	deadline_init(&w->deadline, loop, on_deadline, w);
	cr_assert(deadline_set(&w->deadline, ms));
}

Test(deadline, fire_in_the_order_of_their_times_and_equal_ones_as_they_were_set)
{
	struct wait w[5];
	unsigned long long begun = loop_now_ms(loop);

	start(&w[0], 'a', 30);
	start(&w[1], 'b', 10);
	start(&w[2], 'c', 20);
	start(&w[3], 'd', 20);
	start(&w[4], 'e', 20);
	loop_advance(loop, 9);
	cr_assert_eq(trail_n, 0);
	loop_advance(loop, 100);
	cr_assert_str_eq(trail, "bcdea");
	cr_assert_eq(w[1].at_ms, begun + 10, "the clock stands at the deadline while it fires");
	cr_assert_eq(w[0].at_ms, begun + 30);
	cr_assert_eq(loop_now_ms(loop), begun + 109);
	for (size_t i = 0; i < 5; i++)
		deadline_fini(&w[i].deadline);
}

Test(deadline, setting_replaces_and_clearing_ends)
{
	struct wait w;

	start(&w, 'a', 10);
	cr_assert(deadline_set(&w.deadline, 50));
	loop_advance(loop, 49);
	cr_assert_eq(w.fired, 0u);
	cr_assert(deadline_set(&w.deadline, 5));
	loop_advance(loop, 5);
	cr_assert_eq(w.fired, 1u);
	cr_assert(deadline_set(&w.deadline, 5));
	deadline_clear(&w.deadline);
	deadline_clear(&w.deadline);
	loop_advance(loop, 100);
	cr_assert_eq(w.fired, 1u);
	cr_assert(deadline_set(&w.deadline, 5));
	cr_assert(deadline_set(&w.deadline, DEADLINE_OFF));
	loop_advance(loop, 100);
	cr_assert_eq(w.fired, 1u);
	deadline_fini(&w.deadline);
	deadline_fini(&w.deadline);
}

Test(deadline, may_end_or_set_itself_again_while_it_fires)
{
	struct wait once, thrice;

	start(&once, 'a', 10);
	once.finish = true;
	start(&thrice, 'b', 10);
	thrice.again = true;
	loop_advance(loop, 30);
	cr_assert_str_eq(trail, "abbb");
	deadline_fini(&thrice.deadline);
	loop_advance(loop, 100);
	cr_assert_eq(trail_n, 4);
}

static struct wait other;

static void clear_other(void *ctx)
{
	(void)ctx;
	deadline_clear(&other.deadline);
}

Test(deadline, one_may_clear_another_that_is_due_as_well)
{
	struct deadline killer;

	deadline_init(&killer, loop, clear_other, NULL);
	cr_assert(deadline_set(&killer, 10));
	start(&other, 'o', 10);
	loop_advance(loop, 10);
	cr_assert_eq(other.fired, 0u);
	deadline_fini(&killer);
	deadline_fini(&other.deadline);
}

Test(deadline, ending_what_was_never_set_is_fine)
{
	struct deadline zero = { 0 }, made;

	deadline_fini(&zero);
	deadline_init(&made, loop, clear_other, NULL);
	deadline_clear(&made);
	deadline_fini(&made);
}

/* The real clock: what happens, not when. */
Test(deadline, libevent_timers_do_the_same)
{
	struct wait a, b, c, d;
	struct loop *manual = loop;

	loop = loop_new();
	start(&a, 'a', 1);
	start(&b, 'b', 0);
	b.finish = true;
	start(&c, 'c', 60000);
	cr_assert(deadline_set(&c.deadline, 2));
	start(&d, 'd', 1);
	deadline_clear(&d.deadline);
	UNTIL(loop, a.fired && b.fired && c.fired);
	cr_assert_eq(a.fired + b.fired + c.fired, 3u);
	cr_assert_eq(d.fired, 0u);
	cr_assert(deadline_set(&a.deadline, 60000));
	deadline_fini(&a.deadline);
	deadline_fini(&c.deadline);
	deadline_fini(&d.deadline);
	loop_free(loop);
	loop = manual;
}
