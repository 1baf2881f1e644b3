/* Files whose change matters, looked at once a second by the main thread. stat instead of inotify: it sees a rename
 * over the file, a symbolic link turned elsewhere, and a network file system alike. */
#ifndef ADIT_SRC_SERVER_WATCH_H
#define ADIT_SRC_SERVER_WATCH_H

#include <stdbool.h>
#include <sys/stat.h>

struct watch {
	const char *path; /* NULL: nothing to watch */
	struct stat seen;
	bool there;
};

void watch_init(struct watch *w, const char *path);
/* True once for every change since the last look. */
bool watch_changed(struct watch *w);

#endif
