/* Changing one user's line in an htpasswd file, and asking for a password. */
#ifndef ADIT_CLI_PASSWD_PRIV_H
#define ADIT_CLI_PASSWD_PRIV_H

#include "adit/base/obj.h"
#include "adit/base/slice.h"

enum { PASSWD_LINE_MAX = 1024, PASSWD_ERROR_SIZE = 512 };

/* The sentence for the operator when something failed. */
struct passwd_error { char text[PASSWD_ERROR_SIZE]; };
void passwd_error_set(struct passwd_error *error, const char *fmt, ...) ADIT_PRINTF(2, 3);

enum passwd_change { PASSWD_ADDED, PASSWD_REPLACED, PASSWD_DELETED, PASSWD_FAILED };

/* Replaces or adds the user's line (hash: what stands behind the colon), or deletes it (hash NULL). The file is either
 * wholly the old or wholly the new one at any moment, and every other line is kept as it is. */
enum passwd_change passwd_file_change(const char *path, struct slice user, const char *hash,
	struct passwd_error *error);

/* One line without its end. False: nothing could be read, or the line is longer than PASSWD_LINE_MAX. */
bool passwd_read_stdin(char line[static PASSWD_LINE_MAX + 1], size_t *n, struct passwd_error *error);
/* Asks twice on the terminal, without echo. */
bool passwd_prompt(const char *user, char line[static PASSWD_LINE_MAX + 1], size_t *n, struct passwd_error *error);

#endif
