/* The process's ring of session ticket keys: one for all workers and all reloads, so that a ticket got from one worker
 * resumes on every other, and after a reload.
 *
 * Keys are random at start, or derived from a secret file and the time, so that nodes with the same file (and clocks
 * that agree within half a lifetime) take each other's tickets. A key issues tickets for half a lifetime and is kept
 * until the last of these has expired. Any thread; a lock is held for a copy of 80 bytes. */
#ifndef ADIT_TLS_TICKETS_H
#define ADIT_TLS_TICKETS_H

#include "adit/base/obj.h"
#include <stdbool.h>

struct tls_tickets;

/* secret_path NULL: random keys. Reads the file: never on an event loop. NULL: one sentence in error. */
struct tls_tickets *tls_tickets_new(const char *secret_path, unsigned lifetime_ms, char *error,
	size_t error_size) ADIT_MUST_USE;
struct tls_tickets *tls_tickets_ref(struct tls_tickets *tickets);
void tls_tickets_unref(struct tls_tickets *tickets); /* NULL is fine; the last one wipes all keys */

/* A reload: reads the secret again. Same secret and lifetime: nothing changes. Another one: new tickets come from it,
 * and those of before are taken until they expire. False with a sentence: everything stays as it was. */
bool tls_tickets_reload(struct tls_tickets *tickets, const char *secret_path, unsigned lifetime_ms, char *error,
	size_t error_size) ADIT_MUST_USE;

/* Keys move on when they are used. Called now and then (a minute is fine) this also wipes outlived keys of a process in
 * which nobody shakes hands. */
void tls_tickets_rotate(struct tls_tickets *tickets);

#endif
