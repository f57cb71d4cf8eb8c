"""Private servers for development, from the packages of the extra `dev`. All processes that work in a folder share its
servers; the last of them stops the servers, and their data are kept."""

DEV_SERVICES = "PYWATT_DEV_SERVICES"  # the environment variable by which `dev` and `up` name the folder to a child
DEV_SCHEME = "+dev:"  # the part of a URL that asks for a private server
