/* The auth service with a hash that waits for the test's leave and a clock that the test turns: who is hashed, in which
 * order, and what each question is answered. */
#include "auth/auth_priv.h"

#include "adit/base/mem.h"
#include "adit/log/stats.h"
#include "component/failing.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <event2/event.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { STARTS_MAX = 256, PATIENCE_S = 30 };

/* --- the hash that is not one ---------------------------------------------------------------------------------- */

static struct {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned leave; /* how many may still end */
	unsigned started, ended;
	bool open; /* no waiting at all */
	char password[STARTS_MAX][64]; /* in the order they started */
	unsigned line[STARTS_MAX];
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

static _Atomic uint64_t clock_ms = 1000000;

static uint64_t test_now_ms(void)
{
	return atomic_load(&clock_ms);
}

static void wait_changed(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += PATIENCE_S;
	cr_assert_neq(pthread_cond_timedwait(&gate.changed, &gate.lock, &until), ETIMEDOUT, "waited in vain");
}

/* "right": right, "broken": the library fails, else wrong. */
static enum hash_verdict test_hash(const struct user *user, const char *password, size_t n)
{
	pthread_mutex_lock(&gate.lock);
	snprintf(gate.password[gate.started % STARTS_MAX], sizeof(gate.password[0]), "%.*s", (int)n, password);
	gate.line[gate.started % STARTS_MAX] = user->line;
	gate.started++;
	pthread_cond_broadcast(&gate.changed);
	while (!gate.open && gate.leave == 0)
		wait_changed();
	if (!gate.open)
		gate.leave--;
	gate.ended++;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
	if (strncmp(password, "right", 5) == 0)
		return HASH_RIGHT;
	return strncmp(password, "broken", 6) == 0 ? HASH_FAILED : HASH_WRONG;
}

static void gate_let(unsigned n)
{
	pthread_mutex_lock(&gate.lock);
	gate.leave += n;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
}

static void gate_open(void)
{
	pthread_mutex_lock(&gate.lock);
	gate.open = true;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.lock);
}

static void gate_await_started(unsigned n)
{
	pthread_mutex_lock(&gate.lock);
	while (gate.started < n)
		wait_changed();
	pthread_mutex_unlock(&gate.lock);
}

static unsigned gate_started(void)
{
	unsigned n;

	pthread_mutex_lock(&gate.lock);
	n = gate.started;
	pthread_mutex_unlock(&gate.lock);
	return n;
}

/* --- service, loop, questions ---------------------------------------------------------------------------------- */

static const char three_users[] = "alice:{SHA}aaaaaaaaaaaaaaaaaaaaaaaaaaa=\n"
				  "bob:{SHA}bbbbbbbbbbbbbbbbbbbbbbbbbbb=\n"
				  "carol:{SHA}ccccccccccccccccccccccccccc=\n";

static void no_report(void *ctx ADIT_UNUSED, unsigned line, const char *message)
{
	cr_expect_fail("line %u: %s", line, message);
}

static struct users *users_from(const char *text)
{
	struct users *users = users_parse(slice_of(text), no_report, NULL);

	cr_assert_not_null(users);
	return users;
}

static struct conf test_conf(unsigned threads)
{
	struct conf conf;

	memset(&conf, 0, sizeof(conf));
	conf.auth.throttle = true;
	conf.auth.failures = 10;
	conf.auth.window_ms = 600000;
	conf.auth.per_prefix = (struct conf_rate){ 100, 60000 };
	conf.auth.cache_ms = 3600000;
	conf.auth.wrong_cache_ms = 60000;
	conf.auth.cache_entries = 1000;
	conf.auth.threads = threads;
	conf.auth.queue = 100;
	return conf;
}

struct bench {
	struct conf conf;
	struct auth *auth;
	struct loop *loop;
};

struct question {
	enum reason verdict;
	struct auth_job *job;
	unsigned retry_after_s, answers;
};

static const struct auth_hooks test_hooks = { test_hash, test_now_ms };

static struct bench bench_new(struct conf conf, const char *users)
{
	struct bench b = { .conf = conf, .loop = loop_new() };

	b.auth = auth_new_hooked(&b.conf, users_from(users), &test_hooks);
	cr_assert(b.loop && b.auth);
	return b;
}

static void bench_free(struct bench *b)
{
	gate_open();
	auth_stop(b->auth);
	loop_turn(b->loop);
	cr_expect_eq(loop_held(b->loop), 0, "a job is left");
	auth_free(b->auth);
	loop_free(b->loop);
}

static void on_done(void *ctx, enum reason verdict, unsigned retry_after_s)
{
	struct question *q = ctx;

	q->job = NULL;
	q->verdict = verdict;
	q->retry_after_s = retry_after_s;
	q->answers++;
}

static struct credentials credentials_of(const char *user, const char *password)
{
	struct credentials c;

	memset(&c, 0, sizeof(c));
	c.user_n = strlen(user);
	memcpy(c.user, user, c.user_n);
	c.password_n = strlen(password) < sizeof(c.password) ? strlen(password) : sizeof(c.password) - 1;
	memcpy(c.password, password, c.password_n);
	return c;
}

static void ask_on(struct bench *b, struct loop *loop, struct question *q, const char *user, const char *password,
	const char *address)
{
	struct credentials c = credentials_of(user, password);
	struct addr client;

	cr_assert(addr_from_literal(&client, slice_of(address), 4711));
	memset(q, 0, sizeof(*q));
	q->verdict = auth_check(b->auth, loop, &c, &client, on_done, q, &q->job, &q->retry_after_s);
	if (q->job)
		cr_expect_neq(q->verdict, REASON_OK);
	else
		q->answers++;
}

static void ask(struct bench *b, struct question *q, const char *user, const char *password, const char *address)
{
	ask_on(b, b->loop, q, user, password, address);
}

static void on_patience(evutil_socket_t fd ADIT_UNUSED, short what ADIT_UNUSED, void *ctx ADIT_UNUSED)
{
	cr_assert_fail("no answer came");
}

static void await_on(struct loop *loop, struct question *q)
{
	struct timeval patience = { PATIENCE_S, 0 };
	struct event *watch = evtimer_new(loop_base(loop), on_patience, NULL);

	event_add(watch, &patience);
	while (q->answers == 0)
		event_base_loop(loop_base(loop), EVLOOP_ONCE);
	event_free(watch);
	cr_expect_eq(q->answers, 1);
}

static void await(struct bench *b, struct question *q)
{
	await_on(b->loop, q);
}

/* Asks, lets the hash (if there is one) end, and waits for the answer. */
static enum reason answer(struct bench *b, const char *user, const char *password, const char *address)
{
	struct question q;

	ask(b, &q, user, password, address);
	if (q.job) {
		gate_let(1);
		await(b, &q);
	}
	return q.verdict;
}

static void expect_order(const char *words)
{
	char got[4096] = "";

	pthread_mutex_lock(&gate.lock);
	for (unsigned i = 0; i < gate.started; i++)
		snprintf(got + strlen(got), sizeof(got) - strlen(got), "%s ", gate.password[i]);
	pthread_mutex_unlock(&gate.lock);
	cr_expect_str_eq(got, words);
}

#define HERE "192.0.2.1"
#define ELSEWHERE "198.51.100.1"

/* --- answers --------------------------------------------------------------------------------------------------- */

Test(auth, right_and_wrong_are_hashed_once)
{
	struct bench b = bench_new(test_conf(1), three_users);
	long long hashes = stats_get(STAT_HASHES);

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	cr_expect_eq(answer(&b, "alice", "wrong", HERE), REASON_AUTH_FAILED);
	cr_expect_eq(gate_started(), 2);
	for (int i = 0; i < 20; i++) {
		struct question q;

		ask(&b, &q, "alice", "right", i % 2 ? HERE : ELSEWHERE);
		cr_expect(!q.job && q.verdict == REASON_OK);
		ask(&b, &q, "alice", "wrong", HERE);
		cr_expect(!q.job && q.verdict == REASON_AUTH_FAILED);
	}
	cr_expect_eq(gate_started(), 2);
	cr_expect_eq(stats_get(STAT_HASHES) - hashes, 2);
	cr_expect_eq(answer(&b, "bob", "right", HERE), REASON_OK);
	cr_expect_eq(gate_started(), 3, "another user's verdict is not theirs");
	bench_free(&b);
}

Test(auth, verdicts_end_with_their_time)
{
	struct bench b = bench_new(test_conf(1), three_users);

	answer(&b, "alice", "right", HERE);
	answer(&b, "alice", "wrong", HERE);
	atomic_fetch_add(&clock_ms, 60000);
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	cr_expect_eq(gate_started(), 2);
	cr_expect_eq(answer(&b, "alice", "wrong", HERE), REASON_AUTH_FAILED);
	cr_expect_eq(gate_started(), 3);
	atomic_fetch_add(&clock_ms, 3600000);
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	cr_expect_eq(gate_started(), 4);
	bench_free(&b);
}

Test(auth, unknown_users_cost_one_hash_of_a_line_of_theirs)
{
	struct bench b = bench_new(test_conf(1), three_users);
	unsigned line;

	cr_expect_eq(answer(&b, "nobody", "right", HERE), REASON_AUTH_FAILED, "even if it fits the line that pays");
	cr_expect_eq(gate_started(), 1);
	line = gate.line[0];
	cr_expect_eq(answer(&b, "nobody", "right", HERE), REASON_AUTH_FAILED);
	cr_expect_eq(gate_started(), 1, "remembered like any other");
	cr_expect_eq(answer(&b, "nobody", "other", HERE), REASON_AUTH_FAILED);
	cr_expect_eq(gate.line[1], line);
	bench_free(&b);
}

Test(auth, nobody_in_the_file)
{
	struct bench b = bench_new(test_conf(1), "");

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_AUTH_FAILED);
	cr_expect_eq(gate_started(), 0);
	bench_free(&b);
}

Test(auth, overlong_passwords_are_wrong_unhashed_and_count)
{
	struct bench b = bench_new(test_conf(1), three_users);
	char password[600];
	struct question q;

	memset(password, 'r', 513);
	password[513] = '\0';
	for (char c = 'a'; c < 'a' + 10; c++) {
		password[0] = c;
		ask(&b, &q, "alice", password, HERE);
		cr_expect(!q.job && q.verdict == REASON_AUTH_FAILED);
		ask(&b, &q, "alice", password, HERE);
		cr_expect(q.verdict == (c == 'j' ? REASON_AUTH_THROTTLED : REASON_AUTH_FAILED), "repeated: counted once");
	}
	password[0] = 'z';
	ask(&b, &q, "alice", password, HERE);
	cr_expect_eq(q.verdict, REASON_AUTH_THROTTLED);
	cr_expect_eq(q.retry_after_s, 60);
	cr_expect_eq(gate_started(), 0);
	bench_free(&b);
}

Test(auth, a_failing_library_is_no_verdict)
{
	struct bench b = bench_new(test_conf(1), three_users);

	for (unsigned i = 1; i <= 15; i++) {
		cr_expect_eq(answer(&b, "alice", "broken", HERE), REASON_AUTH_ERROR);
		cr_expect_eq(gate_started(), i, "nothing is remembered");
	}
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK, "nor counted");
	bench_free(&b);
}

Test(auth, the_real_hash)
{
	struct conf conf = test_conf(1);
	struct loop *loop = loop_new();
	struct auth *auth = auth_new(&conf, users_from("alice:$apr1$dklnFclS$Oya50ZBWDOdN2HJ8TOsPa/\n"));
	struct bench b = { .conf = conf, .auth = auth, .loop = loop };
	struct question q;

	cr_assert(auth && loop);
	ask(&b, &q, "alice", "p\xc3\xa4ssw\xc3\xb6rd secret", HERE);
	cr_assert_not_null(q.job);
	cr_expect_eq(q.answers, 0, "never from inside the call");
	await(&b, &q);
	cr_expect_eq(q.verdict, REASON_OK);
	ask(&b, &q, "alice", "passwort", HERE);
	await(&b, &q);
	cr_expect_eq(q.verdict, REASON_AUTH_FAILED);
	bench_free(&b);
}

/* --- sharing and cancelling ------------------------------------------------------------------------------------ */

Test(auth, equal_credentials_in_flight_share_one_hash)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct loop *other = loop_new();
	struct question q[4], on_other;

	ask(&b, &q[0], "alice", "right", HERE);
	gate_await_started(1); /* being hashed: joining is still possible */
	for (int i = 1; i < 4; i++)
		ask(&b, &q[i], "alice", "right", ELSEWHERE);
	ask_on(&b, other, &on_other, "alice", "right", HERE);
	cr_assert(q[3].job && on_other.job);
	auth_cancel(q[0].job); /* the one who began it */
	auth_cancel(q[2].job);
	gate_let(1);
	await(&b, &q[1]);
	await(&b, &q[3]);
	await_on(other, &on_other);
	cr_expect(q[1].verdict == REASON_OK && q[3].verdict == REASON_OK && on_other.verdict == REASON_OK);
	cr_expect_eq(gate_started(), 1);
	loop_turn(b.loop);
	cr_expect_eq(q[0].answers + q[2].answers, 0);
	cr_expect_eq(loop_held(other), 0);
	bench_free(&b);
	loop_free(other);
}

Test(auth, cancelled_while_waiting_costs_nothing)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question busy, q, again;

	ask(&b, &busy, "alice", "w1", HERE);
	gate_await_started(1);
	ask(&b, &q, "bob", "right", HERE);
	ask(&b, &again, "bob", "right", HERE);
	auth_cancel(q.job);
	cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_STRANGERS), 1);
	auth_cancel(again.job);
	cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_STRANGERS), 0);
	auth_cancel(NULL);
	gate_let(1);
	await(&b, &busy);
	gate_open();
	cr_expect_eq(answer(&b, "bob", "other", HERE), REASON_AUTH_FAILED);
	expect_order("w1 other ");
	cr_expect_eq(q.answers + again.answers, 0);
	bench_free(&b);
}

Test(auth, cancelled_while_hashing_fills_the_cache)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question q;

	ask(&b, &q, "alice", "right", HERE);
	gate_await_started(1);
	auth_cancel(q.job);
	gate_let(1);
	cr_expect_eq(answer(&b, "bob", "right", HERE), REASON_OK); /* the only thread is done with alice */
	ask(&b, &q, "alice", "right", HERE);
	cr_expect(!q.job && q.verdict == REASON_OK);
	cr_expect_eq(gate_started(), 2);
	bench_free(&b);
}

Test(auth, going_away_does_not_save_the_budget)
{
	static const char *const passwords[] = { "w0", "w1" }, *const others[] = { "bob", "carol" };
	struct conf conf = test_conf(1);
	conf.auth.failures = 2;
	struct bench b = bench_new(conf, three_users);
	struct question q;

	for (unsigned i = 0; i < 2; i++) {
		ask(&b, &q, "alice", passwords[i], HERE);
		gate_await_started(2 * i + 1);
		auth_cancel(q.job);
		gate_let(1);
		cr_expect_eq(answer(&b, others[i], "right", ELSEWHERE), REASON_OK); /* the only thread is done with alice */
	}
	ask(&b, &q, "alice", "w2", HERE);
	cr_expect_eq(q.verdict, REASON_AUTH_THROTTLED);
	bench_free(&b);
}

Test(auth, cancelled_with_the_letter_on_its_way)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question q, other;
	struct loop *second = loop_new();

	ask(&b, &q, "alice", "right", HERE);
	gate_await_started(1);
	ask_on(&b, second, &other, "alice", "right", HERE);
	gate_let(1);
	await_on(second, &other); /* sent after q's */
	cr_expect_eq(q.answers, 0);
	auth_cancel(q.job);
	loop_turn(b.loop);
	cr_expect_eq(q.answers, 0);
	bench_free(&b);
	loop_free(second);
}

/* --- throttle -------------------------------------------------------------------------------------------------- */

Test(auth, distinct_wrong_passwords_are_throttled_cached_right_ones_not)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question q;

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	for (int i = 0; i < 10; i++) {
		char password[16];

		snprintf(password, sizeof(password), "w%d", i);
		for (int repeat = 0; repeat < (i == 9 ? 1 : 5); repeat++)
			cr_expect_eq(answer(&b, "alice", password, HERE), REASON_AUTH_FAILED);
	}
	cr_expect_eq(gate_started(), 11);
	ask(&b, &q, "alice", "w10", HERE);
	cr_expect(!q.job && q.verdict == REASON_AUTH_THROTTLED && q.retry_after_s == 60);
	ask(&b, &q, "alice", "w0", HERE);
	cr_expect_eq(q.verdict, REASON_AUTH_THROTTLED);
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	cr_expect_eq(answer(&b, "alice", "w10", ELSEWHERE), REASON_AUTH_FAILED, "another prefix has its own budget");
	cr_expect_eq(answer(&b, "bob", "right2", HERE), REASON_OK, "so has another user");
	/* survives a reload */
	auth_reconfigure(b.auth, &b.conf, users_from(three_users));
	ask(&b, &q, "alice", "w11", HERE);
	cr_expect_eq(q.verdict, REASON_AUTH_THROTTLED);
	atomic_fetch_add(&clock_ms, 60000);
	cr_expect_eq(answer(&b, "alice", "w11", HERE), REASON_AUTH_FAILED);
	ask(&b, &q, "alice", "w12", HERE);
	cr_expect_eq(q.verdict, REASON_AUTH_THROTTLED);
	/* off by a reload */
	b.conf.auth.throttle = false;
	auth_reconfigure(b.auth, &b.conf, users_from(three_users));
	cr_expect_eq(answer(&b, "alice", "w12", HERE), REASON_AUTH_FAILED);
	bench_free(&b);
}

Test(auth, guesses_in_flight_do_not_outrun_the_budget)
{
	struct conf conf = test_conf(1);
	conf.auth.failures = 3;
	struct bench b = bench_new(conf, three_users);
	struct question q[20];
	unsigned failed = 0, throttled = 0;

	for (int i = 0; i < 20; i++) {
		char password[16];

		snprintf(password, sizeof(password), "w%d", i);
		ask(&b, &q[i], "alice", password, HERE);
		cr_expect_not_null(q[i].job);
	}
	gate_open();
	for (int i = 0; i < 20; i++) {
		await(&b, &q[i]);
		failed += q[i].verdict == REASON_AUTH_FAILED;
		throttled += q[i].verdict == REASON_AUTH_THROTTLED && q[i].retry_after_s == 200;
	}
	cr_expect_eq(failed, 3);
	cr_expect_eq(throttled, 17);
	cr_expect_eq(gate_started(), 3);
	bench_free(&b);
}

Test(auth, a_throttled_waiter_does_not_take_others_with_it)
{
	struct conf conf = test_conf(1);
	conf.auth.failures = 1;
	struct bench b = bench_new(conf, three_users);
	struct question first, shared, innocent;

	ask(&b, &first, "alice", "w1", HERE);
	gate_await_started(1);
	ask(&b, &shared, "alice", "right", HERE);
	ask(&b, &innocent, "alice", "right", ELSEWHERE); /* the same hash */
	gate_let(2);
	await(&b, &first);
	await(&b, &shared);
	await(&b, &innocent);
	cr_expect_eq(first.verdict, REASON_AUTH_FAILED);
	cr_expect_eq(shared.verdict, REASON_AUTH_THROTTLED);
	cr_expect_eq(innocent.verdict, REASON_OK);
	cr_expect_eq(gate_started(), 2);
	bench_free(&b);
}

Test(auth, a_botnet_does_not_lock_out_known_places)
{
	struct conf conf = test_conf(1);
	conf.auth.failures = 1; /* 10 over all prefixes */
	struct bench b = bench_new(conf, three_users);
	struct question q;
	int i;

	gate_open();
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	for (i = 0; i < 50; i++) {
		char address[32], password[16];

		snprintf(address, sizeof(address), "10.0.%d.1", i);
		snprintf(password, sizeof(password), "w%d", i);
		if (answer(&b, "alice", password, address) == REASON_AUTH_THROTTLED)
			break;
	}
	cr_expect_eq(i, 10);
	ask(&b, &q, "alice", "right2", "10.1.0.1");
	cr_expect_eq(q.verdict, REASON_AUTH_THROTTLED);
	cr_expect_eq(answer(&b, "alice", "right2", HERE), REASON_OK);
	bench_free(&b);
}

/* --- the lines ------------------------------------------------------------------------------------------------- */

Test(auth, fair_by_prefix)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question q[7];

	ask(&b, &q[0], "alice", "first", "203.0.113.1");
	gate_await_started(1);
	ask(&b, &q[1], "alice", "a1", "10.0.0.1");
	ask(&b, &q[2], "alice", "a2", "10.0.0.1");
	ask(&b, &q[3], "alice", "a3", "10.0.0.1");
	ask(&b, &q[4], "alice", "A1", "10.0.0.2");
	ask(&b, &q[5], "bob", "b1", "10.0.1.1");
	ask(&b, &q[6], "bob", "b2", "10.0.1.1");
	gate_open();
	for (int i = 0; i < 7; i++)
		await(&b, &q[i]);
	expect_order("first a1 b1 A1 b2 a2 a3 ");
	bench_free(&b);
}

Test(auth, a_full_line_sends_away_the_longest_prefixes_newest)
{
	struct conf conf = test_conf(1);
	conf.auth.queue = 4;
	struct bench b = bench_new(conf, three_users);
	struct question first, a[4], more, other, same, same_too;

	ask(&b, &first, "alice", "first", "203.0.113.1");
	gate_await_started(1);
	for (int i = 0; i < 4; i++) {
		char password[16];

		snprintf(password, sizeof(password), "a%d", i);
		ask(&b, &a[i], "alice", password, "10.0.0.1");
	}
	ask(&b, &more, "alice", "a9", "10.0.0.1");
	cr_expect(!more.job && more.verdict == REASON_AUTH_BUSY, "its own is the longest");
	ask(&b, &same, "alice", "a3", "10.0.7.1"); /* waits for the hash of a[3] */
	ask(&b, &other, "bob", "b1", "10.0.1.1");
	cr_expect_not_null(other.job);
	await(&b, &a[3]);
	await(&b, &same);
	cr_expect(a[3].verdict == REASON_AUTH_BUSY && same.verdict == REASON_AUTH_BUSY);
	ask(&b, &same_too, "alice", "a3", "10.0.0.1");
	cr_expect_eq(same_too.verdict, REASON_AUTH_BUSY);
	gate_open();
	await(&b, &other);
	for (int i = 0; i < 3; i++)
		await(&b, &a[i]);
	await(&b, &first);
	expect_order("first a0 b1 a1 a2 ");
	bench_free(&b);
}

Test(auth, known_users_and_strangers_take_turns_on_one_thread)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question q[8];

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK); /* known from here on */
	ask(&b, &q[0], "bob", "first", ELSEWHERE);
	gate_await_started(2);
	ask(&b, &q[1], "bob", "s1", ELSEWHERE);
	ask(&b, &q[2], "bob", "s2", ELSEWHERE);
	ask(&b, &q[3], "bob", "s3", ELSEWHERE);
	ask(&b, &q[4], "alice", "s4", ELSEWHERE); /* this place does not know her */
	ask(&b, &q[5], "alice", "k1", HERE);
	ask(&b, &q[6], "alice", "k2", HERE);
	cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_KNOWN), 2);
	cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_STRANGERS), 4);
	gate_open();
	for (int i = 0; i < 7; i++)
		await(&b, &q[i]);
	expect_order("right first k1 s1 k2 s2 s3 s4 ");
	bench_free(&b);
}

Test(auth, half_the_pool_never_takes_a_stranger)
{
	struct bench b = bench_new(test_conf(2), three_users);
	struct question flood[20], q;

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	for (int i = 0; i < 20; i++) {
		char password[16];

		snprintf(password, sizeof(password), "s%d", i);
		ask(&b, &flood[i], "alice", password, ELSEWHERE);
	}
	gate_await_started(2); /* the strangers' thread is taken, and none of theirs is let go */
	ask(&b, &q, "alice", "right2", HERE);
	gate_await_started(3);
	cr_expect_str_eq(gate.password[2], "right2");
	cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_STRANGERS), 19);
	gate_open();
	await(&b, &q);
	cr_expect_eq(q.verdict, REASON_OK);
	for (int i = 0; i < 20; i++)
		await(&b, &flood[i]);
	bench_free(&b);
}

Test(auth, the_strangers_half_helps_out)
{
	struct bench b = bench_new(test_conf(2), three_users);
	struct question one, two;

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	ask(&b, &one, "alice", "k1", HERE);
	ask(&b, &two, "alice", "k2", HERE);
	gate_await_started(3); /* both at once */
	gate_open();
	await(&b, &one);
	await(&b, &two);
	bench_free(&b);
}

Test(auth, a_known_user_who_joins_pulls_the_hash_forward)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question first, s1, stranger, known;

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	ask(&b, &first, "bob", "first", ELSEWHERE);
	gate_await_started(2);
	ask(&b, &s1, "bob", "s1", ELSEWHERE);
	ask(&b, &stranger, "alice", "right2", ELSEWHERE);
	ask(&b, &known, "alice", "right2", HERE);
	cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_KNOWN), 1);
	cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_STRANGERS), 1);
	gate_open();
	await(&b, &stranger);
	await(&b, &known);
	await(&b, &s1);
	await(&b, &first);
	cr_expect(stranger.verdict == REASON_OK && known.verdict == REASON_OK);
	expect_order("right first right2 s1 ");
	bench_free(&b);
}

Test(auth, each_line_is_sure_of_half_the_places)
{
	struct conf conf = test_conf(1);
	conf.auth.queue = 4;
	struct bench b = bench_new(conf, three_users);
	struct question first, s[4], k[3];

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	ask(&b, &first, "bob", "first", "203.0.113.1");
	gate_await_started(2);
	for (int i = 0; i < 4; i++) {
		char password[16], address[32];

		snprintf(password, sizeof(password), "s%d", i);
		snprintf(address, sizeof(address), "10.0.%d.1", i);
		ask(&b, &s[i], "bob", password, address);
	}
	ask(&b, &k[0], "alice", "k0", HERE);
	ask(&b, &k[1], "alice", "k1", HERE); /* the longest prefix of all, and yet */
	cr_expect(k[0].job && k[1].job);
	await(&b, &s[3]);
	await(&b, &s[2]);
	cr_expect(s[3].verdict == REASON_AUTH_BUSY && s[2].verdict == REASON_AUTH_BUSY);
	ask(&b, &k[2], "alice", "k2", HERE);
	cr_expect_eq(k[2].verdict, REASON_AUTH_BUSY, "now it is the known who have more than their half");
	gate_open();
	for (int i = 0; i < 2; i++) {
		await(&b, &k[i]);
		await(&b, &s[i]);
	}
	await(&b, &first);
	bench_free(&b);
}

/* --- reload ---------------------------------------------------------------------------------------------------- */

static const char alice_changed[] = "alice:{SHA}zzzzzzzzzzzzzzzzzzzzzzzzzzz=\n"
				    "bob:{SHA}bbbbbbbbbbbbbbbbbbbbbbbbbbb=\n";

Test(auth, reload_keeps_the_verdicts_of_unchanged_lines)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question q;

	gate_open();
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	cr_expect_eq(answer(&b, "bob", "right", HERE), REASON_OK);
	cr_expect_eq(answer(&b, "bob", "wrong", HERE), REASON_AUTH_FAILED);
	cr_expect_eq(answer(&b, "carol", "right", HERE), REASON_OK);
	cr_expect_eq(gate_started(), 4);
	b.conf.auth.cache_entries = 500;
	auth_reconfigure(b.auth, &b.conf, users_from(alice_changed));
	ask(&b, &q, "bob", "right", HERE);
	cr_expect(!q.job && q.verdict == REASON_OK);
	ask(&b, &q, "bob", "wrong", HERE);
	cr_expect(!q.job && q.verdict == REASON_AUTH_FAILED);
	cr_expect_eq(gate_started(), 4);
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	cr_expect_eq(gate_started(), 5, "her line has changed");
	cr_expect_eq(answer(&b, "carol", "right", HERE), REASON_AUTH_FAILED, "is no longer there");
	bench_free(&b);
}

Test(auth, a_hash_under_way_is_judged_by_the_new_lines)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question removed, changed, waiting;

	ask(&b, &removed, "carol", "right", HERE);
	gate_await_started(1);
	ask(&b, &waiting, "alice", "right", HERE);
	auth_reconfigure(b.auth, &b.conf, users_from(alice_changed));
	gate_let(2); /* her line is gone: once more, against a line that only pays */
	await(&b, &removed);
	cr_expect_eq(removed.verdict, REASON_AUTH_FAILED);
	gate_await_started(3);
	cr_expect_eq(gate.line[2], 1);
	/* changed while being hashed: hashed again */
	auth_reconfigure(b.auth, &b.conf, users_from(three_users));
	gate_let(2);
	await(&b, &waiting);
	cr_expect_eq(waiting.verdict, REASON_OK);
	cr_expect_eq(gate_started(), 4);
	ask(&b, &changed, "alice", "right", HERE);
	cr_expect(!changed.job && changed.verdict == REASON_OK, "remembered for the line it was found out with");
	bench_free(&b);
}

/* Names that come and go while a password is hashed for them: whoever asks is judged by what holds at the end. */
Test(auth, lines_that_come_and_go_under_a_hash)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question stranger, comer;

	ask(&b, &stranger, "nobody", "right", HERE);
	gate_await_started(1);
	auth_reconfigure(b.auth, &b.conf, users_from(alice_changed));
	gate_let(1); /* no line before, none after: nothing to look at again */
	await(&b, &stranger);
	cr_expect_eq(stranger.verdict, REASON_AUTH_FAILED);
	cr_expect_eq(gate_started(), 1);
	ask(&b, &comer, "carol", "right", HERE);
	gate_await_started(2);
	auth_reconfigure(b.auth, &b.conf, users_from(three_users));
	gate_let(2);
	await(&b, &comer);
	cr_expect_eq(comer.verdict, REASON_OK);
	cr_expect_eq(gate_started(), 3);
	bench_free(&b);
}

Test(auth, a_line_that_never_stays_has_no_verdict)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question q;

	ask(&b, &q, "alice", "right", HERE);
	for (unsigned round = 1; round <= 3; round++) {
		gate_await_started(round);
		auth_reconfigure(b.auth, &b.conf, users_from(round % 2 ? alice_changed : three_users));
		gate_let(1);
	}
	await(&b, &q);
	cr_expect_eq(q.verdict, REASON_AUTH_ERROR);
	cr_expect_eq(gate_started(), 3);
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK, "nothing is remembered of it");
	bench_free(&b);
}

/* The last line of the file goes while somebody waits who is not in it: there is nothing left to hash against. */
Test(auth, nobody_is_left_to_pay)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question busy, stranger;

	ask(&b, &busy, "alice", "right", HERE);
	gate_await_started(1);
	ask(&b, &stranger, "nobody", "right", HERE);
	auth_reconfigure(b.auth, &b.conf, users_from(""));
	gate_open();
	await(&b, &busy);
	await(&b, &stranger);
	cr_expect_eq(busy.verdict, REASON_AUTH_FAILED);
	cr_expect_eq(stranger.verdict, REASON_AUTH_FAILED);
	bench_free(&b);
}

/* --- the end, and want of memory ------------------------------------------------------------------------------- */

Test(auth, stop_answers_who_waits)
{
	struct bench b = bench_new(test_conf(2), three_users);
	struct question hashed, waiting[5], late;

	ask(&b, &hashed, "alice", "w", HERE);
	gate_await_started(1);
	for (int i = 0; i < 5; i++) {
		char password[16];

		snprintf(password, sizeof(password), "w%d", i);
		ask(&b, &waiting[i], "bob", password, HERE);
	}
	auth_cancel(waiting[4].job);
	gate_open(); /* more may begin before the end is known */
	auth_stop(b.auth);
	await(&b, &hashed);
	for (int i = 0; i < 4; i++) {
		await(&b, &waiting[i]);
		cr_expect(waiting[i].verdict == REASON_AUTH_ERROR || waiting[i].verdict == REASON_AUTH_FAILED);
	}
	ask(&b, &late, "carol", "right", HERE);
	cr_expect(!late.job && late.verdict == REASON_AUTH_ERROR);
	bench_free(&b);
}

Test(auth, out_of_memory_at_the_start)
{
	struct conf conf = test_conf(2);
	bool hit = true;

	gate_open();
	for (unsigned long nth = 1; hit; nth++) {
		struct users *users = users_from(three_users);
		struct auth *auth;

		mem_fault_set(nth, false);
		auth = auth_new_hooked(&conf, users, &test_hooks);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_expect_eq(auth == NULL, hit, "allocation %lu", nth);
		if (auth) {
			auth_stop(auth);
			auth_free(auth);
		}
	}
}

Test(auth, out_of_memory_in_a_question)
{
	struct bench b = bench_new(test_conf(1), three_users);
	struct question busy;
	bool hit = true;

	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	ask(&b, &busy, "bob", "first", ELSEWHERE);
	gate_await_started(2);
	for (unsigned long nth = 1; hit; nth++) {
		struct question stranger, known;

		mem_fault_set(nth, false);
		ask(&b, &stranger, "alice", "new", "203.0.113.9");
		ask(&b, &known, "alice", "new", HERE); /* joins, and pulls it forward if there is memory for that */
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		cr_expect(stranger.job || stranger.verdict == REASON_NO_MEMORY, "allocation %lu", nth);
		cr_expect(known.job || known.verdict == REASON_NO_MEMORY, "allocation %lu", nth);
		auth_cancel(stranger.job);
		auth_cancel(known.job);
		cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_STRANGERS), 0);
		cr_expect_eq(auth_pool_waiting(b.auth, AUTH_LANE_KNOWN), 0);
	}
	gate_open();
	await(&b, &busy);
	bench_free(&b);
}

Test(auth, a_failing_library_lets_nobody_in)
{
	struct conf conf = test_conf(1);
	struct bench b = bench_new(conf, three_users);
	bool hit = true;

	for (unsigned long nth = 1; hit; nth++) {
		struct users *users = users_from(three_users);
		struct auth *auth;

		failing_set(NULL, nth, ENOMEM);
		auth = auth_new_hooked(&conf, users, &test_hooks);
		hit = failing_hit();
		failing_set(NULL, 0, 0);
		cr_expect_eq(auth == NULL, hit, "call %lu", nth);
		if (auth)
			auth_stop(auth);
		auth_free(auth);
	}
	gate_open();
	hit = true;
	for (unsigned long nth = 1; hit; nth++) {
		char password[16];
		enum reason verdict;

		snprintf(password, sizeof(password), "right%lu", nth);
		failing_set(NULL, nth, ENOMEM);
		verdict = answer(&b, "alice", password, HERE);
		hit = failing_hit();
		failing_set(NULL, 0, 0);
		cr_expect(hit ? verdict == REASON_NO_MEMORY || verdict == REASON_AUTH_ERROR : verdict == REASON_OK,
			"call %lu: %s", nth, reason_name(verdict));
	}
	bench_free(&b);
}

Test(auth, out_of_memory_in_a_reload)
{
	struct bench b = bench_new(test_conf(1), three_users);
	bool hit = true;
	struct question q;

	gate_open();
	cr_expect_eq(answer(&b, "alice", "right", HERE), REASON_OK);
	for (unsigned long nth = 1; hit; nth++) {
		struct users *users = users_from(three_users);

		b.conf.auth.cache_entries = nth % 2 ? 5000 : 1000;
		mem_fault_set(nth, false);
		auth_reconfigure(b.auth, &b.conf, users);
		hit = mem_fault_hit();
		mem_fault_set(0, false);
		ask(&b, &q, "alice", "right", HERE);
		cr_expect(!q.job && q.verdict == REASON_OK);
	}
	bench_free(&b);
}

/* --- many threads at once -------------------------------------------------------------------------------------- */

enum { STORM_LOOPS = 3, STORM_ROUNDS = 3000, STORM_OPEN = 16 };

struct storm {
	struct bench *bench;
	unsigned seed, asked, answered, cancelled, wrong_answers;
};

struct open_question {
	struct storm *storm;
	struct auth_job *job;
	bool right;
};

static void on_storm_done(void *ctx, enum reason verdict, unsigned retry_after_s ADIT_UNUSED)
{
	struct open_question *q = ctx;

	q->job = NULL;
	q->storm->answered++;
	if (q->right ? verdict == REASON_AUTH_FAILED : verdict == REASON_OK)
		q->storm->wrong_answers++;
}

static void *storm_thread(void *ctx)
{
	static const char *const names[] = { "alice", "bob", "carol", "nobody" };
	static const char *const passwords[] = { "right", "right", "w1", "w2", "w3" };
	struct storm *s = ctx;
	struct open_question open[STORM_OPEN];
	struct loop *loop = loop_new();

	memset(open, 0, sizeof(open));
	for (unsigned round = 0; round < STORM_ROUNDS; round++) {
		struct open_question *q = &open[rand_r(&s->seed) % STORM_OPEN];
		unsigned name = (unsigned)rand_r(&s->seed) % 4, password = (unsigned)rand_r(&s->seed) % 5, retry;
		char address[32];
		struct addr client;
		struct credentials c = credentials_of(names[name], passwords[password]);
		enum reason verdict;

		if (q->job) {
			if (rand_r(&s->seed) % 2) {
				auth_cancel(q->job);
				q->job = NULL;
				s->cancelled++;
			}
			loop_turn(loop);
			continue;
		}
		snprintf(address, sizeof(address), "10.0.%d.%d", rand_r(&s->seed) % 4, rand_r(&s->seed) % 4);
		(void)addr_from_literal(&client, slice_of(address), 1);
		q->storm = s;
		q->right = name != 3 && password < 2;
		s->asked++;
		verdict = auth_check(s->bench->auth, loop, &c, &client, on_storm_done, q, &q->job, &retry);
		if (!q->job)
			on_storm_done(q, verdict, retry);
	}
	for (unsigned i = 0; i < STORM_OPEN; i++) {
		if (open[i].job) {
			auth_cancel(open[i].job);
			s->cancelled++;
		}
	}
	while (loop_held(loop) > 0)
		event_base_loop(loop_base(loop), EVLOOP_ONCE);
	loop_free(loop);
	return NULL;
}

Test(auth, storm)
{
	struct conf conf = test_conf(4);
	struct storm storms[STORM_LOOPS];
	pthread_t threads[STORM_LOOPS];

	conf.auth.queue = 6;
	conf.auth.cache_ms = 1; /* the clock below moves: verdicts come and go */
	conf.auth.wrong_cache_ms = 1;
	conf.auth.cache_entries = 4;
	struct bench b = bench_new(conf, three_users);
	gate_open();
	for (unsigned i = 0; i < STORM_LOOPS; i++) {
		storms[i] = (struct storm){ .bench = &b, .seed = i + 1 };
		cr_assert_eq(pthread_create(&threads[i], NULL, storm_thread, &storms[i]), 0);
	}
	for (unsigned i = 0; i < 300; i++) {
		auth_reconfigure(b.auth, &b.conf, users_from(three_users));
		atomic_fetch_add(&clock_ms, 7);
	}
	for (unsigned i = 0; i < STORM_LOOPS; i++) {
		pthread_join(threads[i], NULL);
		cr_expect_eq(storms[i].asked, storms[i].answered + storms[i].cancelled);
		cr_expect_eq(storms[i].wrong_answers, 0);
		cr_expect_gt(storms[i].cancelled, 0);
	}
	bench_free(&b);
}
