/* Waiting for what a loop is to bring about, and counting descriptors. */
#ifndef ADIT_TESTS_TURNING_H
#define ADIT_TESTS_TURNING_H

#include "adit/loop/loop.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <poll.h>

/* Turns the loop until the condition holds (looked at once a turn); fails after some 20 s. */
#define UNTIL(loop, condition)                                                    \
	do {                                                                      \
		bool holds_ = false;                                              \
		for (unsigned turn_ = 0; !holds_ && turn_ < 20000; turn_++) {     \
			loop_turn(loop);                                          \
			holds_ = (condition);                                     \
			if (!holds_)                                              \
				poll(NULL, 0, 1);                                 \
		}                                                                 \
		cr_assert(holds_, "waited in vain: " #condition);                 \
	} while (0)

static inline unsigned open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned n = 0;

	cr_assert_not_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}

#endif
