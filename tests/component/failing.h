/* Calls of libraries and of the kernel that fail when told to, for the branches that nothing else reaches. List
 * failing.c among a program's tests to have it. */
#ifndef ADIT_TESTS_FAILING_H
#define ADIT_TESTS_FAILING_H

#include <stdbool.h>

/* Of the calls that failing.c knows, the nth from now on (1 = the next) fails with this errno; `call` names the only one
 * that counts, NULL: each does. In all threads. nth 0 turns it off. */
void failing_set(const char *call, unsigned long nth, int error);
/* Has the call that was to fail come? */
bool failing_hit(void);

#endif
