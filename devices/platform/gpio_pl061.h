/*
 * The line of the PL061 that the power button is on; firmware describes it as a key
 * (firmware/fdt.h).
 */
#ifndef DEVICES_PLATFORM_GPIO_PL061_H
#define DEVICES_PLATFORM_GPIO_PL061_H

enum { PL061_POWER_LINE = 3 };

#endif
