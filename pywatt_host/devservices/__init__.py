"""Private servers for development, from the wheels of the extra `dev`: one copy for all who work in a folder, stopped
with the last of them, its data kept."""

DEV_SERVICES = "PYWATT_DEV_SERVICES"  # names the folder, in the environment of what `dev` and `up` start
DEV_SCHEME = "+dev:"  # in a URL that asks for one
