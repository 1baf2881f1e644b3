/* A file that only grows, by whole lines.
 *
 * What is hard is the line that a full disk or a kill cuts in two: whatever is written next would stand in the same
 * line and be lost with it. So the rest of a broken line is cut off at once, and a file found at opening without a
 * '\n' at its end is cut back to its last line. Cutting is safe only for the one process that writes there: every
 * appender holds a shared lock on its file (flock(2)), and cuts only while it can make that exclusive. Where cutting
 * is not possible, the next write begins with a '\n', so that at most one line is unreadable. */
#include "audit/audit_priv.h"

#include "adit/log/log.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IOV_BATCH = 128, STOP_MS = 5000 };

static int kernel_open_at(int dir, const char *name, int flags, mode_t mode)
{
	return openat(dir, name, flags, mode);
}

const struct audit_sys audit_sys_kernel = {
	.open_at = kernel_open_at, .write_vec = writev, .truncate = ftruncate, .now_ms = clock_mono_ms, .stop_ms = STOP_MS
};

void appender_init(struct appender *a)
{
	*a = (struct appender){ .fd = -1 };
}

void appender_close(struct appender *a)
{
	if (a->fd >= 0)
		close(a->fd);
	appender_init(a);
}

bool appender_open(struct appender *a, const struct audit_sys *sys, int dir, const char *name)
{
	/* O_NONBLOCK: a FIFO in the place of the file must not stop the writer; it is refused below */
	static const int flags = O_RDWR | O_APPEND | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd = sys->open_at(dir, name, flags, 0640);
	struct stat st;

	if (fd < 0) {
		a->error = errno;
		return false;
	}
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		a->error = EINVAL;
		close(fd);
		return false;
	}
	appender_close(a);
	a->fd = fd;
	/* Without the lock (another process just cuts, or the file system has none) appending is as good. */
	(void)flock(fd, LOCK_SH | LOCK_NB);
	return true;
}

bool appender_is_gone(const struct appender *a)
{
	struct stat st;

	return a->fd >= 0 && fstat(a->fd, &st) == 0 && st.st_nlink == 0;
}

off_t appender_size(const struct appender *a)
{
	struct stat st;

	return a->fd >= 0 && fstat(a->fd, &st) == 0 ? st.st_size : 0;
}

/* Cuts the file from `now` bytes to `to`; not when somebody else may have written behind us. */
static bool cut(struct appender *a, const struct audit_sys *sys, off_t now, off_t to)
{
	bool done = flock(a->fd, LOCK_EX | LOCK_NB) == 0 && appender_size(a) == now && sys->truncate(a->fd, to) == 0;

	(void)flock(a->fd, LOCK_SH | LOCK_NB);
	return done;
}

/* Where the last whole line of the file ends; -1: not within reach, or what follows is nothing that we began. */
static off_t last_line_end(int fd, off_t size)
{
	static const char start[] = "{\"time\":";
	char tail[AUDIT_LINE_MAX];
	off_t from = size > (off_t)sizeof(tail) ? size - (off_t)sizeof(tail) : 0;
	ssize_t n = pread(fd, tail, (size_t)(size - from), from), end = n;
	size_t rest;

	if (n != size - from)
		return -1;
	while (end > 0 && tail[end - 1] != '\n')
		end--;
	rest = (size_t)(n - end);
	if ((end == 0 && from > 0) || memcmp(tail + end, start, rest < sizeof(start) - 1 ? rest : sizeof(start) - 1) != 0)
		return -1;
	return from + end;
}

/* Before the first write: does the file end where a line ends? */
static void check_end(struct appender *a, const struct audit_sys *sys)
{
	off_t size = appender_size(a), end;
	char last;

	a->checked = true;
	if (size == 0 || (pread(a->fd, &last, 1, size - 1) == 1 && last == '\n'))
		return;
	end = last_line_end(a->fd, size);
	if (end < 0 || !cut(a, sys, size, end)) {
		a->torn = true;
		return;
	}
	log_notice("audit: cut off %lld bytes of a record that was being written when the proxy was killed",
		   (long long)(size - end));
}

/* Like writev, until all is written; bytes written, fewer with a->error set. */
static size_t write_all(struct appender *a, const struct audit_sys *sys, struct iovec *iov, size_t count)
{
	size_t total = 0;

	while (count > 0) {
		ssize_t n = sys->write_vec(a->fd, iov, (int)count);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			a->error = n < 0 ? errno : EIO;
			return total;
		}
		total += (size_t)n;
		while (count > 0 && (size_t)n >= iov->iov_len) {
			n -= (ssize_t)iov->iov_len;
			iov++;
			count--;
		}
		if (count > 0) {
			iov->iov_base = (char *)iov->iov_base + n;
			iov->iov_len -= (size_t)n;
		}
	}
	return total;
}

/* A batch that fits one system call. As appender_write. */
static size_t write_some(struct appender *a, const struct audit_sys *sys, struct iovec *iov, size_t count)
{
	size_t sizes[IOV_BATCH], written, whole = 0;
	off_t end;

	for (size_t i = 0; i < count; i++)
		sizes[i] = iov[i].iov_len;
	written = write_all(a, sys, iov, count);
	while (whole < count && written >= sizes[whole])
		written -= sizes[whole++];
	if (written == 0 || whole == count)
		return whole;
	/* After a write to a file opened with O_APPEND its offset is where that write ended. */
	end = lseek(a->fd, 0, SEEK_CUR);
	a->torn = end < (off_t)written || !cut(a, sys, end, end - (off_t)written);
	return whole;
}

static bool separate(struct appender *a, const struct audit_sys *sys)
{
	char newline = '\n';
	struct iovec iov = { &newline, 1 };

	if (a->torn && write_all(a, sys, &iov, 1) == 1)
		a->torn = false;
	return !a->torn;
}

size_t appender_write(struct appender *a, const struct audit_sys *sys, struct iovec *iov, size_t count)
{
	size_t done = 0;

	ADIT_ASSERT(a->fd >= 0);
	a->error = 0;
	if (!a->checked)
		check_end(a, sys);
	if (!separate(a, sys))
		return 0;
	while (done < count && a->error == 0)
		done += write_some(a, sys, iov + done, count - done < IOV_BATCH ? count - done : IOV_BATCH);
	return done;
}
