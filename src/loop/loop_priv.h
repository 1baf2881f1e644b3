/* The loop's inside, shared by loop.c and deadline.c. */
#ifndef ADIT_SRC_LOOP_PRIV_H
#define ADIT_SRC_LOOP_PRIV_H

#include "adit/loop/loop.h"

#include <pthread.h>

TAILQ_HEAD(task_list, loop_task);
TAILQ_HEAD(deadline_list, deadline);
STAILQ_HEAD(grave_list, loop_grave);
STAILQ_HEAD(letter_list, loop_letter);

/* Two orderers share a lane by chance only; they are kept apart by a hash under a key nobody knows. */
enum { LOOP_LANES = 256 };

struct loop_lane {
	TAILQ_ENTRY(loop_lane) entry; /* while it has tasks */
	struct task_list tasks;
};
TAILQ_HEAD(lane_list, loop_lane);

#define LOOP_MAGIC OBJ_MAGIC('l', 'o', 'o', 'p')

struct loop {
	uint32_t magic;
	struct event_base *base;
	struct event *work; /* due at once when tasks or graves wait */
	bool work_active;
	struct task_list tasks;
	struct loop_lane lanes[LOOP_LANES];
	struct lane_list waiting; /* lanes that have tasks, the next one first */
	uint64_t turns_us; /* what turns have taken since the work event ran last */
	uint64_t passed_us; /* when the last pass's turns ended, if some had to wait then; else 0 */
	struct grave_list graves;

	unsigned held;

	bool manual;
	unsigned long long manual_ms;
	struct deadline_list manual_deadlines; /* sorted by at_ms */

	pthread_t owner;
	bool owned;

	int mail_fd;
	struct event *mail;
	pthread_mutex_t mail_lock;
	struct letter_list letters; /* under mail_lock, as is the next */
	bool mail_signalled;
	_Atomic bool stopping;
};

#endif
