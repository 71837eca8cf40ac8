/*
 * Read, not mapped: a mapped file that somebody cuts short while a loader walks it would end the
 * process by SIGBUS.
 */
#include "vmm/image.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { IMAGE_MAX = 1 << 30 };

static int check_file(const struct stat *st, const char *option, const char *path, struct error *err)
{
	if (S_ISDIR(st->st_mode))
		return error_set(err, EISDIR, "--%s %s: is a directory; name the file itself", option, path);
	if (!S_ISREG(st->st_mode))
		return error_set(err, EINVAL, "--%s %s: is not a regular file; copy it to one", option, path);
	if (st->st_size == 0)
		return error_set(err, EINVAL, "--%s %s: is empty; check how it was made", option, path);
	if (st->st_size > IMAGE_MAX)
		return error_set(err, EFBIG, "--%s %s: is larger than 1 GiB; is it a disk? give it with --disk",
			option, path);
	return 0;
}

int image_size(size_t *ret, const char *option, const char *path, int fd, struct error *err)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return error_set(err, errno, "--%s %s: %s", option, path, strerror(errno));
	r = check_file(&st, option, path, err);
	if (r == 0)
		*ret = (size_t)st.st_size;
	return r;
}

int image_read(struct image *ret, const char *option, const char *path, int fd, size_t size, struct error *err)
{
	uint8_t *data;
	size_t got = 0;

	data = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (data == MAP_FAILED)
		return error_set(err, errno, "--%s %s: no memory to read it: %s", option, path, strerror(errno));
	while (got < size) {
		ssize_t n = pread(fd, data + got, size - got, (off_t)got);

		if (n <= 0) {
			int e = n < 0 ? errno : EIO;

			munmap(data, size);
			return error_set(err, e, "--%s %s: cannot be read: %s", option, path, strerror(e));
		}
		got += (size_t)n;
	}
	*ret = (struct image){ data, got };
	return 0;
}

void image_drop(struct image *image)
{
	if (image->data)
		munmap(image->data, image->len);
	*image = (struct image){ 0 };
}
