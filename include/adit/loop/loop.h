/* One thread's event loop: an event_base (NOLOCK), a run queue, deadlines, a graveyard, and a mailbox for other
 * threads.
 *
 * Rules (each has a trap behind it): no callback calls another callback, it posts; an object that closes is buried
 * and freed by the loop when none of its frames can be on the stack; a wait has one absolute deadline.
 * Everything here but loop_send and loop_stop may be called on the loop's own thread only (asserted). */
#ifndef ADIT_LOOP_LOOP_H
#define ADIT_LOOP_LOOP_H

#include "adit/base/obj.h"
#include <stdbool.h>
#include <sys/queue.h>

struct event_base;
struct event;
struct loop;

/* NULL when out of memory or descriptors. The thread that calls loop_run owns it; before that, its creator. */
struct loop *loop_new(void) ADIT_MUST_USE;
/* A loop whose clock stands still until loop_advance: for component tests. */
struct loop *loop_new_manual(void) ADIT_MUST_USE;
void loop_free(struct loop *loop);

void loop_run(struct loop *loop); /* until loop_stop; then the graveyard is emptied */
void loop_stop(struct loop *loop); /* from any thread */
/* Runs what is ready (posted tasks, letters, events, burials) without waiting; for tests and shutdown. */
void loop_turn(struct loop *loop);
void loop_advance(struct loop *loop, unsigned ms); /* manual clock: moves on, fires deadlines in order, turns */

struct event_base *loop_base(struct loop *loop);
unsigned long long loop_now_ms(const struct loop *loop); /* monotonic */

/* How many things (streams, mostly) still need the loop: who stops a loop waits until none is held. */
void loop_hold(struct loop *loop);
void loop_release(struct loop *loop);
unsigned loop_held(const struct loop *loop);

/* --- run queue: "do this soon, not in this frame" --- */
typedef void loop_fn(void *ctx);
struct loop_lane;
struct loop_task {
	TAILQ_ENTRY(loop_task) entry;
	loop_fn *fn;
	void *ctx;
	struct loop_lane *lane; /* NULL: the run queue itself */
	bool queued;
};
void loop_task_init(struct loop_task *task, loop_fn *fn, void *ctx);
void loop_post(struct loop *loop, struct loop_task *task); /* no effect when already queued */
void loop_unpost(struct loop *loop, struct loop_task *task);

/* For dear work that strangers can order at will, handshakes above all: one pass of the loop does half a millisecond of
 * it, so that all else is served meanwhile, and what has to wait waits in a lane of its orderer's (`key`: a hash of the
 * address); lanes take turns, so who orders much waits for himself. Runs fn inside this call when there is time left in
 * this pass and nobody waits: call it last. False: it was queued, as after loop_post. */
bool loop_take_turn(struct loop *loop, struct loop_task *task, unsigned long long key);

/* --- graveyard: bury, then the loop calls `fn(ctx)` (which frees) from its own event --- */
struct loop_grave {
	STAILQ_ENTRY(loop_grave) entry;
	loop_fn *fn;
	void *ctx;
};
void loop_bury(struct loop *loop, struct loop_grave *grave, loop_fn *fn, void *ctx);

/* --- deadlines: one absolute time per wait --- */
struct deadline {
	struct loop *loop;
	struct event *timer; /* made at the first set */
	TAILQ_ENTRY(deadline) entry; /* manual clock */
	unsigned long long at_ms; /* 0: not set */
	loop_fn *fn;
	void *ctx;
};
void deadline_init(struct deadline *d, struct loop *loop, loop_fn *fn, void *ctx);
/* In ms from now, replacing an earlier time; DEADLINE_OFF clears. False only when out of memory. */
#define DEADLINE_OFF 0xffffffffu
bool deadline_set(struct deadline *d, unsigned in_ms);
void deadline_clear(struct deadline *d);
void deadline_fini(struct deadline *d);

/* --- mailbox: letters from any thread, opened on the loop's thread in the order they came --- */
struct loop_letter {
	STAILQ_ENTRY(loop_letter) entry;
	loop_fn *fn;
	void *ctx;
};
/* The letter belongs to the loop until its fn runs. Never fails, never waits for the loop. After loop_free nothing may
 * be sent: whoever sends must have been stopped first. */
void loop_send(struct loop *loop, struct loop_letter *letter, loop_fn *fn, void *ctx);

#endif
