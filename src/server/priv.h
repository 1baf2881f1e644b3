/* Becoming the service user. */
#ifndef ADIT_SRC_SERVER_PRIV_H
#define ADIT_SRC_SERVER_PRIV_H

#include <stdbool.h>
#include <stddef.h>

/* user NULL: stay who we are. Groups, gid and uid for good; no way back. False with a sentence in error. */
bool priv_drop(const char *user, char *error, size_t error_size);
/* The limit on open files up to the hard limit. Returns what it is now. */
unsigned long priv_raise_files(void);

#endif
