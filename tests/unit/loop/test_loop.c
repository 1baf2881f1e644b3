/* What runs when: tasks, burials, letters, stopping. */
#include "adit/loop/loop.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"
#include "component/turning.h"

#include <event2/event.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

static struct loop *loop;
static unsigned descriptors;
static char trail[64];
static size_t trail_n;

static void setup(void)
{
	descriptors = open_descriptors();
	loop = loop_new();
	cr_assert_not_null(loop);
	trail_n = 0;
}

static void teardown(void)
{
	loop_free(loop);
	cr_expect_eq(open_descriptors(), descriptors);
}

TestSuite(loop, .init = setup, .fini = teardown, .timeout = 60);

static void mark(char c)
{
	cr_assert_lt(trail_n, sizeof(trail) - 1);
	trail[trail_n++] = c;
	trail[trail_n] = '\0';
}

/* --- tasks --- */

static struct loop_task tasks[4];

static void leave_mark(void *ctx)
{
	mark(*(const char *)ctx);
}

static void init_tasks(void)
{
	static const char names[] = "abcd";

	for (size_t i = 0; i < 4; i++)
		loop_task_init(&tasks[i], leave_mark, (void *)(uintptr_t)&names[i]);
}

Test(loop, tasks_run_in_the_order_they_were_posted_and_once)
{
	init_tasks();
	loop_post(loop, &tasks[2]);
	loop_post(loop, &tasks[0]);
	loop_post(loop, &tasks[2]);
	loop_post(loop, &tasks[1]);
	cr_assert_eq(trail_n, 0, "never inside loop_post");
	loop_turn(loop);
	cr_assert_str_eq(trail, "cab");
	loop_turn(loop);
	cr_assert_str_eq(trail, "cab");
}

Test(loop, an_unposted_task_does_not_run)
{
	init_tasks();
	for (size_t i = 0; i < 4; i++)
		loop_post(loop, &tasks[i]);
	loop_unpost(loop, &tasks[1]);
	loop_unpost(loop, &tasks[1]);
	loop_unpost(loop, &tasks[3]);
	loop_turn(loop);
	cr_assert_str_eq(trail, "ac");
	loop_post(loop, &tasks[1]);
	loop_turn(loop);
	cr_assert_str_eq(trail, "acb");
}

static void unpost_the_rest(void *ctx)
{
	(void)ctx;
	mark('x');
	for (size_t i = 1; i < 4; i++)
		loop_unpost(loop, &tasks[i]);
	loop_post(loop, &tasks[2]);
}

Test(loop, a_task_may_unpost_and_post_others)
{
	init_tasks();
	loop_task_init(&tasks[0], unpost_the_rest, NULL);
	for (size_t i = 0; i < 4; i++)
		loop_post(loop, &tasks[i]);
	loop_turn(loop);
	cr_assert_str_eq(trail, "xc");
}

static void unpost_all(void *ctx)
{
	(void)ctx;
	for (size_t i = 0; i < 4; i++)
		loop_unpost(loop, &tasks[i]);
}

Test(loop, unposting_everything_from_a_task_leaves_a_working_queue)
{
	struct loop_task first;

	init_tasks();
	loop_task_init(&first, unpost_all, NULL);
	loop_post(loop, &first);
	for (size_t i = 0; i < 4; i++)
		loop_post(loop, &tasks[i]);
	loop_turn(loop);
	cr_assert_eq(trail_n, 0);
	loop_post(loop, &tasks[3]);
	loop_turn(loop);
	cr_assert_str_eq(trail, "d");
}

struct again {
	struct loop_task task;
	unsigned runs, most;
	int pipe_in;
	bool heard;
};

static void run_again(void *ctx)
{
	struct again *a = ctx;

	if (++a->runs == 3)
		cr_assert_eq(write(a->pipe_in, "x", 1), 1);
	if (a->heard || a->runs >= a->most)
		loop_stop(loop);
	else
		loop_post(loop, &a->task);
}

static void on_pipe(evutil_socket_t fd, short what, void *ctx)
{
	char byte;

	(void)what;
	cr_assert_eq(read((int)fd, &byte, 1), 1);
	((struct again *)ctx)->heard = true;
}

/* An event made active by hand would run again in the same pass, before any descriptor is polled. */
Test(loop, a_task_that_posts_itself_does_not_starve_descriptors)
{
	struct again a = { .most = 100000 };
	struct event *event;
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	a.pipe_in = ends[1];
	event = event_new(loop_base(loop), ends[0], EV_READ | EV_PERSIST, on_pipe, &a);
	cr_assert(event && event_add(event, NULL) == 0);
	loop_task_init(&a.task, run_again, &a);
	loop_post(loop, &a.task);
	loop_run(loop);
	cr_assert(a.heard);
	cr_assert_lt(a.runs, 10u, "the descriptor had to wait for %u runs", a.runs);
	event_free(event);
	close(ends[0]);
	close(ends[1]);
}

static void post_and_mark(void *ctx)
{
	static unsigned left = 4;

	mark(*(const char *)ctx);
	if (left-- > 0)
		loop_post(loop, &tasks[0]);
}

Test(loop, what_a_task_posts_runs_after_all_that_were_queued)
{
	static const char name = 'A';

	init_tasks();
	loop_task_init(&tasks[0], post_and_mark, (void *)(uintptr_t)&name);
	loop_post(loop, &tasks[0]);
	loop_post(loop, &tasks[1]);
	loop_turn(loop);
	cr_assert_str_eq(trail, "AbAAAA");
}

/* --- turns --- */

/* More than a pass has for turns. */
static void burn(void *ctx)
{
	uint64_t until = clock_mono_us() + 3000;

	if (ctx)
		mark(*(const char *)ctx);
	while (clock_mono_us() < until)
		;
}

static void spend_this_pass(void)
{
	static struct loop_task dear;

	loop_task_init(&dear, burn, NULL);
	cr_assert(loop_take_turn(loop, &dear, 0));
}

Test(loop, a_turn_is_taken_at_once_while_there_is_time)
{
	init_tasks();
	cr_assert(loop_take_turn(loop, &tasks[0], 7));
	cr_assert_str_eq(trail, "a");
	spend_this_pass();
	cr_assert_not(loop_take_turn(loop, &tasks[1], 7));
	cr_assert_not(loop_take_turn(loop, &tasks[1], 7), "queued once");
	cr_assert_str_eq(trail, "a");
	loop_turn(loop);
	cr_assert_str_eq(trail, "ab");
	loop_turn(loop);
	cr_assert(loop_take_turn(loop, &tasks[2], 7), "a new pass, new time");
	cr_assert_str_eq(trail, "abc");
}

Test(loop, lanes_take_turns)
{
	init_tasks();
	spend_this_pass();
	for (size_t i = 0; i < 3; i++)
		cr_assert_not(loop_take_turn(loop, &tasks[i], 1));
	cr_assert_not(loop_take_turn(loop, &tasks[3], 2));
	loop_turn(loop);
	cr_assert_str_eq(trail, "adbc");
}

Test(loop, a_turn_can_be_given_up)
{
	init_tasks();
	spend_this_pass();
	for (size_t i = 0; i < 4; i++)
		cr_assert_not(loop_take_turn(loop, &tasks[i], i % 2));
	loop_unpost(loop, &tasks[1]);
	loop_unpost(loop, &tasks[3]);
	loop_unpost(loop, &tasks[3]);
	loop_turn(loop);
	cr_assert_str_eq(trail, "ac");
	loop_post(loop, &tasks[1]);
	loop_turn(loop);
	cr_assert_str_eq(trail, "acb", "a task is not bound to its lane");
}

Test(loop, turns_and_tasks_may_unpost_each_other)
{
	struct loop_task first;

	init_tasks();
	loop_task_init(&first, unpost_all, NULL);
	spend_this_pass();
	cr_assert_not(loop_take_turn(loop, &first, 1));
	for (size_t i = 0; i < 3; i++)
		cr_assert_not(loop_take_turn(loop, &tasks[i], i));
	loop_turn(loop);
	cr_assert_leq(trail_n, 1, "only the lane before may have been quicker");
}

static void burn_again(void *ctx)
{
	struct again *a = ctx;

	burn(NULL);
	run_again(a);
}

/* Thousands of handshakes in one poll: what else comes is served between them. */
Test(loop, turns_do_not_starve_descriptors)
{
	struct again a = { .most = 40 };
	struct loop_task many[40];
	struct event *event;
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	a.pipe_in = ends[1];
	event = event_new(loop_base(loop), ends[0], EV_READ | EV_PERSIST, on_pipe, &a);
	cr_assert(event && event_add(event, NULL) == 0);
	loop_task_init(&a.task, run_again, &a);
	spend_this_pass();
	for (size_t i = 0; i < 40; i++) {
		loop_task_init(&many[i], burn_again, &a);
		cr_assert_not(loop_take_turn(loop, &many[i], i % 3));
	}
	loop_run(loop);
	cr_assert(a.heard);
	cr_assert_lt(a.runs, 10u, "the descriptor had to wait for %u runs", a.runs);
	for (size_t i = 0; i < 40; i++)
		loop_unpost(loop, &many[i]);
	loop_unpost(loop, &a.task);
	event_free(event);
	close(ends[0]);
	close(ends[1]);
}

static void busy_again(void *ctx)
{
	struct again *a = ctx;
	uint64_t until = clock_mono_us() + 20000;

	while (clock_mono_us() < until)
		;
	a->runs++;
	loop_post(loop, &a->task);
}

static void burn_and_count(void *ctx)
{
	burn(NULL);
	if (++*(unsigned *)ctx == 60)
		loop_stop(loop);
}

/* Tunnels that make each pass long must not leave handshakes one step a pass: they get a share of it. */
Test(loop, long_passes_do_not_starve_turns)
{
	struct again a = { .most = 1 };
	struct loop_task many[60];
	unsigned done = 0;

	loop_task_init(&a.task, busy_again, &a);
	spend_this_pass();
	for (size_t i = 0; i < 60; i++) {
		loop_task_init(&many[i], burn_and_count, &done);
		cr_assert_not(loop_take_turn(loop, &many[i], i));
	}
	loop_post(loop, &a.task);
	loop_run(loop);
	cr_assert_eq(done, 60u);
	cr_assert_lt(a.runs, 45u, "%u busy passes for 60 turns", a.runs); /* one a pass would be 60 */
	loop_unpost(loop, &a.task);
}

/* --- burials --- */

struct body {
	struct loop_grave grave;
	struct body *child;
	char name;
};

static void on_burial(void *ctx)
{
	struct body *b = ctx;

	mark(b->name);
	if (b->child)
		loop_bury(loop, &b->child->grave, on_burial, b->child);
	mem_free(b);
}

static struct body *body(char name, struct body *child)
{
	struct body *b = mem_alloc(sizeof(*b));

	cr_assert_not_null(b);
	b->name = name;
	b->child = child;
	return b;
}

static void bury_here(void *ctx)
{
	struct body *b = ctx;

	loop_bury(loop, &b->grave, on_burial, b);
	mark('<');
	cr_assert_eq(b->name, '1', "still there in the frame that buried it");
	mark('>');
}

Test(loop, the_dead_are_freed_after_the_frame_and_after_the_tasks)
{
	struct loop_task task;

	init_tasks();
	loop_task_init(&task, bury_here, body('1', body('2', body('3', NULL))));
	loop_post(loop, &task);
	loop_post(loop, &tasks[0]);
	loop_turn(loop);
	cr_assert_str_eq(trail, "<>a123");
}

Test(loop, burials_outside_of_callbacks_wait_for_a_turn)
{
	struct body *b = body('1', NULL);

	loop_bury(loop, &b->grave, on_burial, b);
	cr_assert_eq(trail_n, 0);
	loop_turn(loop);
	cr_assert_str_eq(trail, "1");
}

Test(loop, freeing_a_loop_buries_what_is_left)
{
	struct loop *other = loop_new();
	struct body *b = body('1', NULL);

	cr_assert_not_null(other);
	loop_bury(other, &b->grave, on_burial, b);
	loop_free(other);
	cr_assert_str_eq(trail, "1");
	loop_free(NULL);
}

/* --- letters --- */

enum { SENDERS = 4, LETTERS = 5000 };

struct letter {
	struct loop_letter head;
	unsigned sender, number;
};

static unsigned next_number[SENDERS];
static unsigned letters_read;

static void on_letter(void *ctx)
{
	struct letter *l = ctx;

	cr_assert_eq(l->number, next_number[l->sender], "out of order");
	next_number[l->sender]++;
	letters_read++;
	free(l);
	if (letters_read == SENDERS * LETTERS)
		loop_stop(loop);
}

static void *send_letters(void *ctx)
{
	unsigned sender = *(unsigned *)ctx;

	for (unsigned i = 0; i < LETTERS; i++) {
		struct letter *l = malloc(sizeof(*l));

		*l = (struct letter){ .sender = sender, .number = i };
		loop_send(loop, &l->head, on_letter, l);
	}
	return NULL;
}

Test(loop, letters_from_four_threads_arrive_in_order_and_none_is_lost)
{
	pthread_t threads[SENDERS];
	unsigned numbers[SENDERS];

	for (unsigned i = 0; i < SENDERS; i++) {
		numbers[i] = i;
		cr_assert_eq(pthread_create(&threads[i], NULL, send_letters, &numbers[i]), 0);
	}
	loop_run(loop);
	for (unsigned i = 0; i < SENDERS; i++)
		pthread_join(threads[i], NULL);
	cr_assert_eq(letters_read, SENDERS * LETTERS);
}

static void note_letter(void *ctx)
{
	free(ctx);
	mark('l');
}

static void send_one(struct loop *to)
{
	struct letter *l = malloc(sizeof(*l));

	loop_send(to, &l->head, note_letter, l);
}

static void on_chain(void *ctx)
{
	unsigned *left = ctx;
	static struct loop_letter letter;

	mark('c');
	if (--*left > 0)
		loop_send(loop, &letter, on_chain, left);
}

Test(loop, a_letter_may_be_sent_again_from_its_own_callback)
{
	static struct loop_letter letter;
	unsigned left = 3;

	loop_send(loop, &letter, on_chain, &left);
	UNTIL(loop, left == 0);
	cr_assert_str_eq(trail, "ccc");
}

Test(loop, letters_that_came_before_the_end_are_opened_by_stop_and_by_free)
{
	struct loop *other = loop_new();

	send_one(loop);
	loop_stop(loop);
	send_one(loop);
	loop_run(loop);
	cr_assert_str_eq(trail, "ll");
	send_one(other);
	loop_free(other);
	cr_assert_str_eq(trail, "lll");
}

/* --- stopping --- */

static atomic_bool is_running;

static void note_running(void *ctx)
{
	(void)ctx;
	atomic_store(&is_running, true);
}

static void *stop_when_running(void *ctx)
{
	(void)ctx;
	while (!atomic_load(&is_running))
		poll(NULL, 0, 1);
	loop_stop(loop);
	return NULL;
}

Test(loop, another_thread_stops_a_loop_that_waits)
{
	struct loop_task task;
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, stop_when_running, NULL), 0);
	loop_task_init(&task, note_running, NULL);
	loop_post(loop, &task);
	loop_run(loop);
	pthread_join(thread, NULL);
}

Test(loop, a_loop_stopped_before_it_runs_returns_at_once)
{
	loop_stop(loop);
	loop_run(loop);
}

Test(loop, running_buries_before_it_returns)
{
	struct body *b = body('1', body('2', NULL));

	loop_bury(loop, &b->grave, on_burial, b);
	loop_stop(loop);
	loop_run(loop);
	cr_assert_str_eq(trail, "12");
}

Test(loop, holds_are_counted)
{
	cr_assert_eq(loop_held(loop), 0u);
	loop_hold(loop);
	loop_hold(loop);
	loop_release(loop);
	cr_assert_eq(loop_held(loop), 1u);
	loop_release(loop);
	cr_assert_eq(loop_held(loop), 0u);
}

Test(loop, a_release_too_many_is_a_fault_of_ours, .signal = SIGABRT)
{
	loop_release(loop);
}

static void *post_from_elsewhere(void *ctx)
{
	loop_post(loop, ctx);
	return NULL;
}

static void start_intruder(void *ctx)
{
	pthread_t thread;

	pthread_create(&thread, NULL, post_from_elsewhere, ctx);
	pthread_join(thread, NULL);
}

Test(loop, posting_from_another_thread_is_a_fault_of_ours, .signal = SIGABRT)
{
	struct loop_task intruder;

	init_tasks();
	loop_task_init(&intruder, start_intruder, &tasks[0]);
	loop_post(loop, &intruder);
	loop_run(loop);
}

Test(loop, every_allocation_may_fail)
{
	for (unsigned long n = 1;; n++) {
		struct loop *other;

		mem_fault_set(n, false);
		other = loop_new();
		if (!mem_fault_hit()) {
			mem_fault_set(0, false);
			loop_free(other);
			cr_assert_gt(n, 1ul);
			return;
		}
		cr_assert_null(other);
	}
}
