/* What the tests of this layer share: a directory of their own, a kernel that fails on demand, waiting, reading
 * records. */
#ifndef UNIT_AUDIT_SUPPORT_H
#define UNIT_AUDIT_SUPPORT_H

#include "audit/audit_priv.h"
#include "unit/audit/json_line.h"

#include <criterion/criterion.h>
#include <stdatomic.h>

enum { SUPPORT_WAIT_MS = 20000, SUPPORT_PATH_MAX = 512, SUPPORT_RECORDS_MAX = 20000 };

/* --- a directory, removed by support_fini --- */
extern char support_dir[64];
void support_init(void);
void support_fini(void);
const char *support_path(const char *name); /* of a file in it; valid until the next call but three */

/* A service on that directory. */
struct audit *support_audit(const struct audit_sys *sys);

/* --- files --- */
/* All of a file, terminated; NULL when there is none. The caller frees. */
char *support_read(const char *path, size_t *n);
/* Number of records of a file, each checked; -1: there is no file. */
int support_count(const char *path);
/* Is there a record with this member, and this value? */
bool support_has(const char *path, const char *key, const char *value);
/* Ids of all records of a file, in order. */
struct support_ids {
	size_t count;
	char id[SUPPORT_RECORDS_MAX][AUDIT_ID_SIZE];
};
void support_ids(const char *path, struct support_ids *ids);

/* Waits until the condition holds; fails the test when it does not come true. */
#define support_until(condition)                                                                                 \
	do {                                                                                                     \
		uint64_t until_ = clock_mono_ms() + SUPPORT_WAIT_MS;                                             \
		while (!(condition)) {                                                                           \
			cr_assert_lt(clock_mono_ms(), until_, "%s did not come true", #condition);               \
			support_yield();                                                                         \
		}                                                                                                \
	} while (0)
void support_yield(void); /* a millisecond */

/* --- submitting --- */
struct support_waiter {
	_Atomic int calls;
	_Atomic int verdict;
};
void support_done(void *waiter, enum reason verdict);
/* An event of that user, with a fresh id in `id`. */
struct audit_event support_event(enum audit_kind kind, const char *user, char id[static AUDIT_ID_SIZE]);
/* Submits, waits for done, gives the verdict (or what audit_submit said). */
enum reason support_submit(struct audit *audit, enum audit_kind kind, const char *user);

/* --- the kernel, failing --- */
/* Bytes that still fit on the disk; SUPPORT_NO_LIMIT: all. What does not fit: a short write, then support_error. */
#define SUPPORT_NO_LIMIT (-1LL)
extern _Atomic long long support_room;
extern _Atomic int support_error; /* default ENOSPC */
extern _Atomic bool support_trickle; /* each write takes a few bytes only, and every second is interrupted */
extern _Atomic bool support_no_cut; /* ftruncate fails */
extern _Atomic bool support_no_open; /* open fails with EACCES */
extern _Atomic bool support_no_open_users; /* the same for other files than access.jsonl */
extern _Atomic bool support_hang; /* writes wait until this is false again */
extern _Atomic uint64_t support_clock_ms; /* 0: the real one */
extern _Atomic unsigned support_writes;
extern const struct audit_sys support_sys;

#endif
