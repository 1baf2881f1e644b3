/* Watching files by what stat says of them. */
#include "server/watch.h"

#include <stddef.h>
#include <string.h>

static bool look(const char *path, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	return stat(path, st) == 0;
}

void watch_init(struct watch *w, const char *path)
{
	*w = (struct watch){ .path = path };
	if (path)
		w->there = look(path, &w->seen);
}

bool watch_changed(struct watch *w)
{
	struct stat now;
	bool there, changed;

	if (!w->path)
		return false;
	there = look(w->path, &now);
	changed = there != w->there || now.st_dev != w->seen.st_dev || now.st_ino != w->seen.st_ino ||
		  now.st_size != w->seen.st_size || now.st_mtim.tv_sec != w->seen.st_mtim.tv_sec ||
		  now.st_mtim.tv_nsec != w->seen.st_mtim.tv_nsec || now.st_ctim.tv_sec != w->seen.st_ctim.tv_sec ||
		  now.st_ctim.tv_nsec != w->seen.st_ctim.tv_nsec;
	w->there = there;
	w->seen = now;
	return changed;
}
