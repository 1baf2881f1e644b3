/* The event loop of one thread.
 *
 * Hard part: what runs when. Everything deferred (posted tasks, burials) hangs on one timer that is due at once, at the
 * same priority as the sockets' events: libevent serves only the highest non-empty priority per pass, so a lower one
 * would starve exactly when the worker is busy, and an event made active by hand would starve the sockets. One firing
 * runs the tasks that were queued when it began; what they post runs at the next pass, so sockets get their turn in
 * between. The dead are freed last, when no frame of theirs can be on the stack.
 *
 * Handshakes and the like do not run as their sockets' events come, for one poll may bring thousands: they have a share
 * of each pass, and lanes within it (loop_take_turn). */
#include "loop/loop_priv.h"

#include "adit/base/clock.h"
#include "adit/base/mem.h"

#include <event2/event.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Of each pass: a handshake or two, for a set-up of somebody else meets ten passes on its way; but a third of what else
 * a pass does, when that is more. */
enum { TURNS_US = 500, TURNS_PART = 3 };

/* Likewise for the dead: thousands may have gone at once. It frees more than a pass accepts. */
enum { BURIALS_US = 2000 };

static void assert_owner(const struct loop *loop)
{
	OBJ_CHECK(loop, LOOP_MAGIC);
	ADIT_ASSERT(!loop->owned || pthread_equal(loop->owner, pthread_self()));
}

/* A burial may bury its children: they are in the queue, too. */
static void bury(struct loop *loop, uint64_t until_us)
{
	while (!STAILQ_EMPTY(&loop->graves) && clock_mono_us() < until_us) {
		struct loop_grave *grave = STAILQ_FIRST(&loop->graves);

		STAILQ_REMOVE_HEAD(&loop->graves, entry);
		grave->fn(grave->ctx);
	}
}

static void wake(struct loop *loop)
{
	static const struct timeval at_once = { 0, 0 };

	if (loop->work_active)
		return;
	/* A timer that is due, not event_active: that would run again in this very pass, before any descriptor is
	 * polled. It needs no memory, though, and what is posted must not wait for somebody else's event. */
	loop->work_active = true;
	if (evtimer_add(loop->work, &at_once) != 0)
		event_active(loop->work, EV_TIMEOUT, 0);
}

static void dequeue(struct loop *loop, struct loop_task *task)
{
	struct loop_lane *lane = task->lane;

	task->queued = false;
	TAILQ_REMOVE(lane ? &lane->tasks : &loop->tasks, task, entry);
	if (lane && TAILQ_EMPTY(&lane->tasks))
		TAILQ_REMOVE(&loop->waiting, lane, entry);
}

static void take_turns(struct loop *loop)
{
	uint64_t begun = clock_mono_us(), share = TURNS_US;

	/* Beside tunnels that keep the loop busy a pass is long, and so must the share be, or nobody gets in any more. */
	if (loop->passed_us != 0 && (begun - loop->passed_us) / TURNS_PART > share)
		share = (begun - loop->passed_us) / TURNS_PART;
	while (!TAILQ_EMPTY(&loop->waiting)) {
		struct loop_lane *lane = TAILQ_FIRST(&loop->waiting);
		struct loop_task *task = TAILQ_FIRST(&lane->tasks);

		TAILQ_REMOVE(&loop->waiting, lane, entry);
		TAILQ_INSERT_TAIL(&loop->waiting, lane, entry);
		dequeue(loop, task);
		task->fn(task->ctx);
		loop->turns_us = clock_mono_us() - begun;
		if (loop->turns_us >= share)
			return;
	}
}

static void on_work(evutil_socket_t fd ADIT_UNUSED, short what ADIT_UNUSED, void *ctx)
{
	struct loop *loop;
	struct loop_task *last;

	OBJ_CAST(loop, ctx, LOOP_MAGIC);
	loop->work_active = false;

	/* A marker instead of a copied list, so that a task may unpost any other. */
	struct loop_task marker = { .queued = true };

	last = &marker;
	TAILQ_INSERT_TAIL(&loop->tasks, last, entry);
	for (;;) {
		struct loop_task *task = TAILQ_FIRST(&loop->tasks);

		TAILQ_REMOVE(&loop->tasks, task, entry);
		task->queued = false;
		if (task == last)
			break;
		task->fn(task->ctx);
	}
	loop->turns_us = 0;
	take_turns(loop);
	loop->passed_us = TAILQ_EMPTY(&loop->waiting) ? 0 : clock_mono_us();
	bury(loop, clock_mono_us() + BURIALS_US);
	if (!TAILQ_EMPTY(&loop->tasks) || !TAILQ_EMPTY(&loop->waiting) || !STAILQ_EMPTY(&loop->graves))
		wake(loop);
}

static void open_letters(struct loop *loop)
{
	struct letter_list batch = STAILQ_HEAD_INITIALIZER(batch);
	eventfd_t count;

	pthread_mutex_lock(&loop->mail_lock);
	STAILQ_CONCAT(&batch, &loop->letters);
	if (loop->mail_signalled) {
		loop->mail_signalled = false;
		(void)eventfd_read(loop->mail_fd, &count);
	}
	pthread_mutex_unlock(&loop->mail_lock);

	while (!STAILQ_EMPTY(&batch)) {
		struct loop_letter *letter = STAILQ_FIRST(&batch);

		STAILQ_REMOVE_HEAD(&batch, entry); /* fn may free it */
		letter->fn(letter->ctx);
	}
}

static void on_mail(evutil_socket_t fd ADIT_UNUSED, short what ADIT_UNUSED, void *ctx)
{
	struct loop *loop;

	OBJ_CAST(loop, ctx, LOOP_MAGIC);
	open_letters(loop);
	if (loop->stopping)
		event_base_loopbreak(loop->base);
}

static struct loop *loop_make(bool manual)
{
	struct loop *loop = mem_alloc(sizeof(*loop));
	struct event_config *config = NULL;

	if (!loop)
		return NULL;
	OBJ_INIT(loop, LOOP_MAGIC);
	TAILQ_INIT(&loop->tasks);
	TAILQ_INIT(&loop->waiting);
	for (size_t i = 0; i < LOOP_LANES; i++)
		TAILQ_INIT(&loop->lanes[i].tasks);
	TAILQ_INIT(&loop->manual_deadlines);
	STAILQ_INIT(&loop->graves);
	STAILQ_INIT(&loop->letters);
	pthread_mutex_init(&loop->mail_lock, NULL);
	loop->manual = manual;
	loop->manual_ms = 1000000;
	loop->mail_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	config = event_config_new();
	if (loop->mail_fd < 0 || !config)
		goto fail;
	event_config_set_flag(config, EVENT_BASE_FLAG_NOLOCK);
	loop->base = event_base_new_with_config(config);
	if (!loop->base)
		goto fail;
	loop->work = evtimer_new(loop->base, on_work, loop);
	loop->mail = event_new(loop->base, loop->mail_fd, EV_READ | EV_PERSIST, on_mail, loop);
	if (!loop->work || !loop->mail || event_add(loop->mail, NULL) != 0)
		goto fail;
	event_config_free(config);
	return loop;
fail:
	if (config)
		event_config_free(config);
	loop_free(loop);
	return NULL;
}

struct loop *loop_new(void)
{
	return loop_make(false);
}

struct loop *loop_new_manual(void)
{
	return loop_make(true);
}

void loop_free(struct loop *loop)
{
	if (!loop)
		return;
	OBJ_CHECK(loop, LOOP_MAGIC);
	if (loop->base) {
		open_letters(loop);
		bury(loop, UINT64_MAX);
		/* Freed bufferevents close their descriptors in finalizers that only a pass runs. */
		event_base_loop(loop->base, EVLOOP_NONBLOCK);
		bury(loop, UINT64_MAX);
	}
	if (loop->work)
		event_free(loop->work);
	if (loop->mail)
		event_free(loop->mail);
	if (loop->base)
		event_base_free(loop->base);
	if (loop->mail_fd >= 0)
		close(loop->mail_fd);
	pthread_mutex_destroy(&loop->mail_lock);
	OBJ_FINI(loop);
	mem_free(loop);
}

void loop_run(struct loop *loop)
{
	OBJ_CHECK(loop, LOOP_MAGIC);
	loop->owner = pthread_self();
	loop->owned = true;
	while (!loop->stopping)
		event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY);
	open_letters(loop);
	bury(loop, UINT64_MAX);
	loop->owned = false;
}

void loop_stop(struct loop *loop)
{
	loop->stopping = true;
	pthread_mutex_lock(&loop->mail_lock);
	if (!loop->mail_signalled) {
		loop->mail_signalled = true;
		(void)eventfd_write(loop->mail_fd, 1);
	}
	pthread_mutex_unlock(&loop->mail_lock);
}

void loop_turn(struct loop *loop)
{
	assert_owner(loop);
	do {
		open_letters(loop);
		event_base_loop(loop->base, EVLOOP_NONBLOCK);
	} while (loop->work_active || !STAILQ_EMPTY(&loop->graves));
}

struct event_base *loop_base(struct loop *loop)
{
	return loop->base;
}

unsigned long long loop_now_ms(const struct loop *loop)
{
	/* libevent's cached time is wall time; the clock itself costs tens of ns (vDSO). */
	return loop->manual ? loop->manual_ms : clock_mono_ms();
}

void loop_hold(struct loop *loop)
{
	assert_owner(loop);
	loop->held++;
}

void loop_release(struct loop *loop)
{
	assert_owner(loop);
	ADIT_ASSERT(loop->held > 0);
	loop->held--;
}

unsigned loop_held(const struct loop *loop)
{
	return loop->held;
}

void loop_task_init(struct loop_task *task, loop_fn *fn, void *ctx)
{
	*task = (struct loop_task){ .fn = fn, .ctx = ctx };
}

void loop_post(struct loop *loop, struct loop_task *task)
{
	assert_owner(loop);
	if (task->queued)
		return;
	task->queued = true;
	task->lane = NULL;
	TAILQ_INSERT_TAIL(&loop->tasks, task, entry);
	wake(loop);
}

bool loop_take_turn(struct loop *loop, struct loop_task *task, unsigned long long key)
{
	uint64_t begun;

	assert_owner(loop);
	if (task->queued)
		return false;
	if (TAILQ_EMPTY(&loop->waiting) && loop->turns_us < TURNS_US) {
		begun = clock_mono_us();
		task->fn(task->ctx);
		loop->turns_us += clock_mono_us() - begun + 1;
		/* The account goes on until it is used up: a pass made for a lone handshake would cost a poll. */
		if (loop->turns_us >= TURNS_US)
			wake(loop);
		return true;
	}
	task->queued = true;
	task->lane = &loop->lanes[key % LOOP_LANES];
	if (TAILQ_EMPTY(&task->lane->tasks))
		TAILQ_INSERT_TAIL(&loop->waiting, task->lane, entry);
	TAILQ_INSERT_TAIL(&task->lane->tasks, task, entry);
	wake(loop);
	return false;
}

void loop_unpost(struct loop *loop, struct loop_task *task)
{
	assert_owner(loop);
	if (task->queued)
		dequeue(loop, task);
}

void loop_bury(struct loop *loop, struct loop_grave *grave, loop_fn *fn, void *ctx)
{
	assert_owner(loop);
	grave->fn = fn;
	grave->ctx = ctx;
	STAILQ_INSERT_TAIL(&loop->graves, grave, entry);
	wake(loop);
}

void loop_send(struct loop *loop, struct loop_letter *letter, loop_fn *fn, void *ctx)
{
	letter->fn = fn;
	letter->ctx = ctx;
	pthread_mutex_lock(&loop->mail_lock);
	STAILQ_INSERT_TAIL(&loop->letters, letter, entry);
	if (!loop->mail_signalled) {
		loop->mail_signalled = true;
		(void)eventfd_write(loop->mail_fd, 1);
	}
	pthread_mutex_unlock(&loop->mail_lock);
}
