/* Faults made to order, in builds with --enable-faults only. Anywhere else there is nothing of it.
 *
 * The system calls and library allocations of the process run through fault.c, which lets the ones that a
 * specification names fail. It comes from the environment,
 *
 *     ADIT_FAULTS=send:EAGAIN=3,recv:short=3
 *
 * or from a file that may change while the process lives, ADIT_FAULTS=file:PATH (fault.c says how it is laid out), or
 * from a test's fault_set. Parts, separated by commas:
 *
 *     CALL:HOW=N    every N-th call          alloc (mem.h), openssl, libevent: their allocations; HOW is `fail`
 *     CALL:HOW@N    the N-th call only       recv, send: of stream sockets; udprecv, udpsend; accept, socket, connect;
 *     CALL:HOW@N+   the N-th and all later   epoll (epoll_ctl), wait (epoll_wait); open, write (of files), truncate,
 *                                            rename, mkdir: HOW is an errno's name, or `short` for recv, send, write
 *     tls:borders   accepted sockets block before each TLS record in both directions, take one record at a time and
 *                   give the five bytes of its header in pieces
 *     clock:+S      the wall clock is S seconds ahead; clock:-S behind */
#ifndef ADIT_BASE_FAULT_H
#define ADIT_BASE_FAULT_H

#include <stdbool.h>

#ifdef ADIT_FAULTS
bool fault_alloc(void); /* for mem.c: this allocation fails */

/* For tests. Counting begins anew; NULL: no faults. False: what is that? */
bool fault_set(const char *specification);
unsigned long fault_hits(void); /* since then */
/* What this thread does is a test's own doing: neither counted nor spoilt. */
void fault_spare(bool on);
#else
static inline bool fault_alloc(void)
{
	return false;
}
#endif

#endif
