/*
 * Disks as the user words them: a format that is named and never guessed, an overlay that takes the
 * writes. Guessing would let a guest that writes a header into its raw disk have its host open any
 * file as the "backing file" of it at the next start.
 */
#ifndef DEVICES_HOST_DISK_OPEN_H
#define DEVICES_HOST_DISK_OPEN_H

#include "devices/host/disk.h"

enum disk_format { DISK_FORMAT_RAW, DISK_FORMAT_QCOW2 };

struct disk_config {
	const char *path;
	enum disk_format format;      /* of `path` */
	bool readonly, direct;
	bool backing_files;           /* a backing file that `path` names may be opened */
	/* takes all writes, `path` is only read; made when it is missing. NULL: none */
	const char *overlay;
	bool ephemeral;               /* the same in a file without a name, gone with the disk */
	const struct iovec *fixed;    /* as of disk_raw_config; of raw disks */
	unsigned nfixed;
	bool forks;                   /* as of disk_raw_config */
};

/*
 * Main, stage 2. The sentence names the option it is about where that is not `path`, whose prefix
 * is the caller's.
 */
int disk_open(struct disk **ret, const struct disk_config *config, struct error *err) NEEDS_CHECK;

/* A chain of images being opened, from the top down. */
struct disk_chain {
	const struct disk_chain *above; /* NULL at the top */
	unsigned depth;
	uint64_t dev, ino;
};

struct disk_qcow2_config {
	const char *path;             /* what is opened */
	bool readonly, direct, plain; /* as of disk_raw_config */
	bool forks;                   /* the same; for all files of the chain */
	bool backing_files;           /* of this image */
	bool backing_files_below;     /* of what lies under its backing file */
	const struct disk_chain *above;
};
int disk_qcow2_open(struct disk **ret, const struct disk_qcow2_config *config, struct error *err) NEEDS_CHECK;
/* The backing file that the image names, as it is written there; "" for none. */
void disk_qcow2_backing(const struct disk *disk, const char **ret_name, const char **ret_format);

#endif
