/* Faults from outside, in builds made with --enable-faults only: the environment variable ADIT_FAULTS="alloc=N,io=N"
 * lets every N-th allocation of ours fail, every N-th send block, and every N-th receive bring one byte. Counted over
 * all threads. Anywhere else these are constants that the compiler removes. */
#ifndef ADIT_BASE_FAULT_H
#define ADIT_BASE_FAULT_H

#include <stdbool.h>
#include <stddef.h>

#ifdef ADIT_FAULTS
bool fault_alloc(void); /* this allocation fails */
bool fault_send(void); /* this send blocks */
size_t fault_receive(size_t size); /* how much to ask for instead of size */
#else
static inline bool fault_alloc(void)
{
	return false;
}

static inline bool fault_send(void)
{
	return false;
}

static inline size_t fault_receive(size_t size)
{
	return size;
}
#endif

#endif
