/* Allocation that can be made to fail (mem_fault_*), and forgetting of secrets.
 *
 * Every allocation of ours goes through here; libraries that take an allocator get mem_hook_*.
 * NULL means out of memory: fail the request, never the process (at start-up: exit). */
#ifndef ADIT_BASE_MEM_H
#define ADIT_BASE_MEM_H

#include "adit/base/obj.h"
#include <stdbool.h>

/* Zeroed; NULL when out of memory. mem_free(NULL) does nothing. */
void *mem_alloc(size_t size) ADIT_MUST_USE;
void *mem_array(size_t count, size_t size) ADIT_MUST_USE;
void *mem_resize(void *p, size_t count, size_t size) ADIT_MUST_USE; /* new tail is not zeroed; p lives on failure */
char *mem_strdup(const char *s) ADIT_MUST_USE;
char *mem_strndup(const char *s, size_t n) ADIT_MUST_USE; /* copies n bytes, terminates */
void mem_free(void *p);

/* Overwrites a secret so that the compiler cannot leave it out (OPENSSL_cleanse). */
void mem_burn(void *p, size_t size);

/* Fault injection for tests (from outside the process: fault.h): the n-th allocation from now on this thread (1 = the
 * next) fails, and all after it too when `forever`. 0 turns it off. Counts only mem_* calls. */
void mem_fault_set(unsigned long nth, bool forever);
/* True when the fault set last was reached. */
bool mem_fault_hit(void);

#endif
