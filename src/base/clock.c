/* Clocks and their text. */
#include "adit/base/clock.h"

#include <stdio.h>
#include <string.h>

uint64_t clock_mono_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u + 1u;
}

uint64_t clock_mono_ms(void)
{
	return clock_mono_us() / 1000u + 1u;
}

int64_t clock_wall_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

const char *clock_text(int64_t wall_us, char buf[static CLOCK_TEXT_SIZE])
{
	time_t seconds = (time_t)(wall_us / 1000000);
	long us = (long)(wall_us % 1000000);
	struct tm tm;
	size_t n;

	if (us < 0) {
		us += 1000000;
		seconds--;
	}
	if (!gmtime_r(&seconds, &tm))
		memset(&tm, 0, sizeof(tm));
	n = strftime(buf, CLOCK_TEXT_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf + n, CLOCK_TEXT_SIZE - n, ".%06ldZ", us);
	return buf;
}
