/* The record: JSON Lines, written by one thread in batches. What is promised: done() with REASON_OK is called only
 * after write(2) of the record has returned, so that a killed process has lost no record that somebody acted upon.
 *
 * Files in the directory: `access.jsonl` (everything about authenticated users; authoritative, written first),
 * `users/NAME.jsonl` (one per user, names made safe), `strangers.jsonl` (refusals before authentication, capped in
 * size; what was there before the cap is `strangers.jsonl.1`). docs/audit.md describes fields, files and failures. */
#ifndef ADIT_AUDIT_AUDIT_H
#define ADIT_AUDIT_AUDIT_H

#include "adit/base/addr.h"
#include "adit/base/obj.h"
#include "adit/base/reason.h"
#include "adit/base/slice.h"
#include <stdbool.h>
#include <stdint.h>

enum audit_kind { AUDIT_OPEN, AUDIT_PROGRESS, AUDIT_CLOSE, AUDIT_DENY };

/* One id per access: time-ordered and unique over nodes, threads and restarts; 26 characters (ULID alphabet). */
enum { AUDIT_ID_SIZE = 27 };
void audit_id(char out[static AUDIT_ID_SIZE]);

/* What is known; NULL, zero and empty slices are left out of the record. Everything is copied by audit_submit. */
struct audit_event {
	enum audit_kind kind;
	const char *id; /* of the access */
	const char *connection; /* id of the client connection */
	const char *user; /* authenticated; NULL: a stranger (then only AUDIT_DENY is allowed) */
	struct slice claimed_user; /* not proven */
	const struct addr *client;
	const struct addr *listener; /* local address of the client connection */
	const char *tls_version, *tls_cipher, *tls_sni;
	const char *protocol; /* "http/1.1", "http/1.0", "h2" */
	struct slice method, target; /* as asked; any byte */
	const struct addr *address; /* dialled */
	const struct addr *local; /* of the outgoing connection */
	const char *rule;
	int status; /* sent or about to be */
	enum reason reason; /* CLOSE and DENY */
	const char *half_close; /* CLOSE: "clean", "truncated": how the client ended */
	unsigned long long bytes_up, bytes_down; /* PROGRESS and CLOSE: always in the record */
	unsigned long long duration_ms; /* PROGRESS and CLOSE: always in the record */
	int64_t time_us; /* wall clock; 0: now */
};

struct audit_config {
	const char *directory; /* must exist and be writable; `users` below it is made */
	const char *node; /* NULL or "": no such field */
	size_t stranger_bytes; /* strangers.jsonl is rotated at this size; 0: 16 MiB */
	size_t open_files; /* per-user descriptors kept; 0: 64 */
	size_t queue; /* records that may wait for the writer; 0: 8192 */
	bool on_failure_allow; /* a record that cannot be written is counted and done says REASON_OK */
};

struct audit;

/* Opens the directory's files (creates them, 0640) and starts the writer. Strings are copied.
 * On failure NULL and one sentence in error. Blocks on the disk: at start only. */
struct audit *audit_new(const struct audit_config *config, char *error, size_t error_size) ADIT_MUST_USE;
/* Writes what is queued and ends the thread; then every done has been called and audit_submit says AUDIT_UNAVAILABLE.
 * Waits at most 5 s for a disk that hangs; false: the writer still hangs (then audit_free gives nothing back). */
bool audit_stop(struct audit *audit);
void audit_free(struct audit *audit); /* stops first when that was not done; NULL is fine */
/* From any thread, without waiting: close and open the files again (USR1). Records submitted before it go to the files
 * that were open, later ones to those found or made at the old names. */
void audit_reopen(struct audit *audit);
/* Follows a new configuration in the same way. Opens the new directory in the caller's thread (never an event loop's);
 * false and one sentence: nothing has changed. */
bool audit_reconfigure(struct audit *audit, const struct audit_config *config, char *error,
		       size_t error_size) ADIT_MUST_USE;

/* Called once, on the writer's thread (on audit_stop's when the disk hangs): REASON_OK after write(2) of access.jsonl
 * and of the user's file, else REASON_AUDIT_UNAVAILABLE. Must be quick. It comes even when its requester lost
 * patience: ctx has to live until then. */
typedef void audit_done_fn(void *ctx, enum reason verdict);

/* Queues one record; done may be NULL. REASON_OK: queued, done will be called once. REASON_AUDIT_UNAVAILABLE (queue
 * full, stopped) or NO_MEMORY: not queued, done is not called, the record is counted as failed. From any thread,
 * never waits. Under on_failure_allow a full queue is REASON_OK too: counted, and done comes. CLOSE and DENY may fill
 * a second length of the queue, so that opens are refused before an end goes unrecorded.
 *
 * A stranger's event takes no done (asserted), is always REASON_OK, and is limited to 10 a second per prefix and 100
 * in all; the rest is counted into one deny_summary a minute for each reason and prefix. */
enum reason audit_submit(struct audit *audit, const struct audit_event *event, audit_done_fn *done,
			 void *ctx) ADIT_MUST_USE;

/* The JSON line of an event with its '\n', as it goes into the file. Pure but for event->time_us = 0. Number of
 * bytes, or 0 when size does not suffice (AUDIT_LINE_MAX always does: long texts are cut, visibly). */
enum { AUDIT_LINE_MAX = 16384 };
size_t audit_format(const struct audit_event *event, const char *node, char *out, size_t size);
/* A user's file name: NAME.jsonl, where bytes other than letters, digits, '_', '@', '+', inner '-' and inner '.' are
 * %HH; long names are cut and carry a hash. Never a path, never hidden, never two names in one file. Returns out;
 * NULL only when out of memory. */
enum { AUDIT_FILE_NAME_SIZE = 256 };
const char *audit_file_name(const char *user, char out[static AUDIT_FILE_NAME_SIZE]);

#endif
