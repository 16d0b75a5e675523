from setuptools import setup

setup(name="syntax-error-in-setup", version="0.1.0", packages=["model"]
