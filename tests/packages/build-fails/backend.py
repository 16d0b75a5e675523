"""A build backend that needs what is not on this machine."""


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    raise RuntimeError("the GDAL headers are not installed")
